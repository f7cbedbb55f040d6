"""Stochastic depth, after Huang et al. 2016 (arXiv 1603.09382): drop the whole branch for individual examples.

The paper drops a branch for the whole batch and scales in evaluation. Here, as in timm, it is dropped for each example
separately and scaled in training.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.ops.whole_batch import draw_rows


def drop_path(key: Array, x: Float[Array, "n ..."], rate: float | Float[Array, ""]) -> Float[Array, "n ..."]:
    """Set each example of ``x`` to zero with probability ``rate``; divide the others by ``1 - rate``.

    The expectation is ``x``, so nothing has to be scaled in evaluation.

    >>> y = drop_path(jax.random.key(0), jnp.ones((8, 2)), 0.5)
    >>> sorted(set(y.ravel().tolist())), bool((y[:, 0] == y[:, 1]).all())
    ([0.0, 2.0], True)
    """
    share = 1.0 - rate
    keep = draw_rows(lambda rows: jax.random.bernoulli(key, share, (rows,) + (1,) * (x.ndim - 1)), x.shape[0])
    return jnp.where(keep, x / jnp.asarray(share, x.dtype), jnp.zeros((), x.dtype))
