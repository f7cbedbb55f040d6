"""Pairs of examples (image, other) composed by class: new pairs in every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from resnet_jax.data.example import OTHER, Spec
from resnet_jax.data.transforms import Needs, register_transform
from resnet_jax.errors import UsageError


@register_transform("shuffle_partners")
@dataclass(frozen=True)
class ShufflePartners:
    """Examples of the same class in a batch exchange partners: ``other`` is permuted within each class.

    Use it only for pairs in which nothing but the class belongs together. Since every epoch shuffles the examples,
    partners come from the whole class; every ``other`` is seen as often as without this transform.
    """

    where: ClassVar = "device"
    needs: ClassVar[Needs] = "any"
    stream: ClassVar = 0x706172
    mixes: ClassVar = False

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Return the batch with other partners."""
        import jax
        import jax.numpy as jnp

        labels = batch["label"]
        if OTHER not in batch or labels.ndim != 1:
            raise UsageError("shuffle_partners is of pairs: examples with a second input, other, and a class each")
        draws = jax.vmap(lambda key: jax.random.bits(key, (), jnp.uint32))(keys)
        given, taken = jnp.lexsort((draws, labels)), jnp.argsort(labels, stable=True)
        source = jnp.zeros_like(given).at[taken].set(given)  # both in the order of the classes
        return {**batch, OTHER: batch[OTHER][source]}
