"""Dropout of the same units, whatever number of devices a batch is cut over."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.fields import is_on
from resnet_jax.ops import draw_rows


class Dropout(nn.Dropout):
    """Flax's dropout, to the bit; of a batch that is cut over a mapped axis, each device drops its part of the whole.

    See :func:`resnet_jax.ops.draw_rows`.
    """

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "n ..."], deterministic: bool | None = None, rng: Array | None = None
    ) -> Float[Array, "n ..."]:
        """Return the inputs, or in training some of them as 0 and the others divided by the share that is kept.

        Args:
            inputs: a batch.
            deterministic: drop nothing; if not given, as the attribute says.
            rng: key; if not given, one of the collection ``dropout``.
        """
        if nn.merge_param("deterministic", self.deterministic, deterministic) or not is_on(self.rate):
            return inputs
        key, kept = self.make_rng(self.rng_collection) if rng is None else rng, 1.0 - self.rate
        mask = draw_rows(lambda rows: jax.random.bernoulli(key, kept, (rows, *inputs.shape[1:])), inputs.shape[0])
        return lax.select(mask, inputs / jnp.asarray(kept, inputs.dtype), jnp.zeros_like(inputs))
