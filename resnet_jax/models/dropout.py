"""Dropout that drops the same units however many devices share the batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.fields import is_on
from resnet_jax.ops import draw_rows


class Dropout(nn.Dropout):
    """Flax's dropout, bit for bit. If the batch is sharded over a mapped axis, each device applies its part of the
    mask.

    See :func:`resnet_jax.ops.draw_rows`.
    """

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "n ..."], deterministic: bool | None = None, rng: Array | None = None
    ) -> Float[Array, "n ..."]:
        """Return the inputs; in training, zero some of them and divide the others by the keep probability.

        Args:
            inputs: a batch.
            deterministic: drop nothing. Defaults to the attribute.
            rng: the key. Defaults to one from the collection ``dropout``.
        """
        if nn.merge_param("deterministic", self.deterministic, deterministic) or not is_on(self.rate):
            return inputs
        key, kept = self.make_rng(self.rng_collection) if rng is None else rng, 1.0 - self.rate
        mask = draw_rows(lambda rows: jax.random.bernoulli(key, kept, (rows, *inputs.shape[1:])), inputs.shape[0])
        return lax.select(mask, inputs / jnp.asarray(kept, inputs.dtype), jnp.zeros_like(inputs))
