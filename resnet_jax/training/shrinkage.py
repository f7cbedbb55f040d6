"""L1 penalty by soft-thresholding: weights that do not pay off become exactly zero.

With w+ the result of the optimizer's update of w, the update ends with the proximal operator of the penalty (Parikh &
Boyd, 2014, "Proximal algorithms", sections 4.2 and 6.5.2),

    w <- S(w+, r t),      S(v, a) = sign(v) max(|v| - a, 0)

with r the rate of this update, including each parameter's own factor, and t the threshold. After plain gradient descent
with t = l1 this is the proximal gradient method, whose fixed points are those of loss + l1 |w|. A subgradient l1
sign(w) has the same minimum, but keeps stepping over zero and back.

Heavy-ball or Nesterov momentum m makes the step for a constant gradient 1 / (1 - m) times as long; with t = l1 / (1 -
m) the fixed points stay those of the penalized loss. After Adam and RMSProp, the threshold does not pass through their
scaling: it is decoupled, as AdamW's weight decay is, and the penalty is not the same for all parameters in units of the
loss.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any


class ThresholdState(NamedTuple):
    """Number of updates made, int32 scalar."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]


def soft_threshold(
    strength: float, rate: optax.Schedule, penalized: PyTree, factors: PyTree
) -> optax.GradientTransformation:
    """Return the transformation that makes an update end with soft-thresholding; it must come last.

    Args:
        strength: t; multiplied by the rate, it is the threshold.
        rate: the rate of each update, by its 0-based index.
        penalized: tree of the parameters with True for those that are penalized.
        factors: tree of the parameters with each one's learning-rate factor, a number or an array.

    >>> tx = soft_threshold(2.5, lambda count: 0.1, True, 1.0)
    >>> w = jnp.array([1.25, 0.15, -0.1])
    >>> update, _ = tx.update(jnp.zeros(3), tx.init(w), w)
    >>> (w + update).tolist()
    [1.0, 0.0, 0.0]
    """

    def init(params: PyTree) -> ThresholdState:
        return ThresholdState(jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: ThresholdState, params: PyTree | None = None) -> tuple[PyTree, ThresholdState]:
        assert params is not None, "soft-thresholding needs the parameters"
        threshold = strength * rate(state.count)

        def shrink(update: jax.Array, w: jax.Array, chosen: bool, factor: Any) -> jax.Array:
            if not chosen:
                return update
            moved = w + update
            least = jnp.asarray(threshold, w.dtype) * jnp.asarray(factor, w.dtype)
            kept = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - least, 0.0)
            return kept - w  # -w where nothing is kept: the sum is exactly zero

        return jax.tree.map(shrink, updates, params, penalized, factors), ThresholdState(state.count + 1)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]
