"""Exponential moving average of parameters and of batch statistics.

e_t = d_t e_{t-1} + (1 - d_t) x_t (Polyak & Juditsky, 1992, in the exponential form common since Inception;
Szegedy et al., 2016). Average the batch statistics with the same decay as the parameters: the averaged
weights then meet the statistics of (about) the networks they are an average of.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from resnet_jax.errors import UsageError

PyTree = Any


def ema_init(tree: PyTree) -> PyTree:
    """Return the average of one value: a float32 copy (its own buffers, so that either may be donated)."""
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.float32, copy=True), tree)


def ema_decay(decay: float, step: ArrayLike | None = None) -> jax.Array:
    """Return the decay in effect: ``decay``, or min(decay, (1 + t) / (10 + t)) when ``step`` t is given.

    The second form, float32 as the first, is the warm-up of TensorFlow's
    `ExponentialMovingAverage(num_updates=...)`: the average forgets the random initialization within the
    first tens of updates instead of the first 1 / (1 - decay).

    Args:
        decay: the final decay, in [0, 1).
        step: updates done so far, counted from 0, or None for no warm-up.

    Raises:
        UsageError: ``decay`` is outside [0, 1).

    >>> [round(float(ema_decay(0.99, t)), 2) for t in (0, 10, 10_000)]
    [0.1, 0.55, 0.99]
    """
    if not 0.0 <= decay < 1.0:
        raise UsageError(f"the decay of a moving average must be in [0, 1), got {decay}")
    if step is None:
        return jnp.float32(decay)
    t = jnp.asarray(step).astype(jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + t) / (10 + t))


def ema_update(ema_tree: PyTree, new_tree: PyTree, decay: float, step: ArrayLike | None = None) -> PyTree:
    """Move the average towards ``new_tree``: ema + (1 - d) (new - ema), in float32.

    Args:
        ema_tree: the average so far (see `ema_init`).
        new_tree: the same structure and shapes, any float dtype.
        decay: the final decay, in [0, 1).
        step: updates done so far, for the warm-up of `ema_decay`; None for no warm-up.

    Returns:
        The new average, float32.

    Raises:
        UsageError: ``decay`` is outside [0, 1).

    >>> ema_update({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, decay=0.75)["w"].tolist()
    [0.25, 0.25]
    """
    rate = 1 - ema_decay(decay, step)

    def move(ema: jax.Array, new: jax.Array) -> jax.Array:
        ema = ema.astype(jnp.float32)
        return ema + rate * (new.astype(jnp.float32) - ema)

    return jax.tree.map(move, ema_tree, new_tree)
