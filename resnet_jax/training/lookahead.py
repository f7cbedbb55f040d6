"""Lookahead: slow weights that follow the optimizer's fast weights, which are reset to them every few updates.

M. R. Zhang et al., Lookahead Optimizer: k steps forward, 1 step back (NeurIPS 2019, arXiv 1907.08610, algorithm 1).
With slow weights phi, fast weights theta and k = ``every``, after updates k, 2 k, 3 k, ...

    phi <- phi + a (theta - phi),      theta <- phi

and the optimizer's own state (momentum) is kept, which the paper found to work as well as resetting it. a is the
paper's step size alpha; with a power p > 0 it falls from 1 to alpha over the run, at update t = 1 .. T

    a_t = 1 - (1 - alpha) (t / T)^p

With alpha = 1 - 0.95^5 = 0.2262 and p = 3 this is the moving average of tysam-code's hlb-CIFAR10 and of airbench (arXiv
2404.00498, section 3.4): no average at first, a long one at the end.

The last update of a run is always followed by a synchronization, so that the final weights are slow weights. Between
synchronizations, the evaluated network has fast weights; validate at multiples of ``every`` for slow ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from resnet_jax.errors import UsageError
from resnet_jax.training.options import Lookahead

PyTree = Any


class LookaheadState(NamedTuple):
    """The wrapped optimizer's state, the slow weights, and the number of updates made, an int32 scalar."""

    inner: Any
    slow: PyTree
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]


def look_ahead(tx: optax.GradientTransformation, settings: Lookahead, total_steps: int) -> optax.GradientTransformation:
    """Return ``tx`` with slow weights, or unchanged if ``settings`` have no ``every``.

    Args:
        tx: the optimizer, whose ``update`` returns what is added to the parameters.
        settings: k, alpha and p.
        total_steps: T, the number of updates of the whole run.

    >>> tx = look_ahead(optax.sgd(1.0), Lookahead(every=2, alpha=0.5), total_steps=4)
    >>> w, found = jnp.float32(0.0), []
    >>> state = tx.init(w)
    >>> for _ in range(4):
    ...     update, state = tx.update(jnp.float32(-1.0), state, w)
    ...     w = w + update
    ...     found.append(float(w))
    >>> found
    [1.0, 1.0, 2.0, 2.0]
    """
    if settings.every is None:
        return tx
    every = settings.every

    def init(params: PyTree) -> LookaheadState:
        copied = jax.tree.map(lambda w: jnp.array(w, copy=True), params)  # its own buffers: either may be donated
        return LookaheadState(tx.init(params), copied, jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: LookaheadState, params: PyTree | None = None) -> tuple[PyTree, LookaheadState]:
        if params is None:
            raise UsageError("lookahead needs the parameters: tx.update(grads, state, params)")
        updates, inner = tx.update(updates, state.inner, params)
        made = state.count + 1
        synchronizes = (made % every == 0) | (made == total_steps)
        progress = jnp.minimum(made.astype(jnp.float32) / total_steps, 1.0)
        step = 1.0 - (1.0 - settings.alpha) * progress**settings.power

        def slower(slow: jax.Array, w: jax.Array, update: jax.Array) -> jax.Array:
            moved = slow + step.astype(slow.dtype) * (w + update - slow)
            return jnp.where(synchronizes, moved, slow)

        slow = jax.tree.map(slower, state.slow, params, updates)
        updates = jax.tree.map(lambda new, w, u: jnp.where(synchronizes, new - w, u), slow, params, updates)
        return updates, LookaheadState(inner, slow, made)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]
