"""The second half of a step: from the gradient to the next state, applied completely or not at all.

It has three forms with the same elementwise arithmetic. Leaf by leaf, as the optimizer is written, runs on a CPU.
Packed (:mod:`~resnet_jax.training.packing`) is for a GPU, which otherwise launches several kernels per parameter: for
every norm, every check for non-finite values and every update. On a TPU only vectors are packed, mainly the scales and
biases of norms: checking one costs a kernel of 1,800 cycles for a few hundred bytes, while a convolution's kernel,
stored in tiles of 8 x 128, would need a new layout. The form is chosen when the program is lowered.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from resnet_jax.training.ema import ema_update
from resnet_jax.training.options import Averaging
from resnet_jax.training.packing import ElementwiseTransformation, Packing
from resnet_jax.training.placement import is_cut
from resnet_jax.training.state import TrainState

PyTree = Any


class _Parts(NamedTuple):
    """What an update changes."""

    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    ema: PyTree


def advance(
    tx: optax.GradientTransformation,
    state: TrainState,
    grads: PyTree,
    stats: PyTree,
    value: jax.Array,
    ema_decay: float | Averaging | None,
) -> tuple[TrainState, jax.Array, jax.Array]:
    """Return the next state, whether everything was finite, and the global norm of the gradient.

    If the loss, the gradient, or a resulting parameter or statistic is not finite, the state keeps its old values; in
    both cases its step advances.

    Args:
        tx: the optimizer.
        state: the state before the update.
        grads: gradients of the parameters.
        stats: running statistics after the step.
        value: the loss.
        ema_decay: decay of the moving averages.
    """
    updates_made = _updates_made(state)
    form = functools.partial(_leaf_by_leaf, tx, ema_decay)
    operands = _parts(state), grads, stats, value, updates_made
    if isinstance(tx, ElementwiseTransformation) and not is_cut():
        packed = functools.partial(_packed, tx, ema_decay)
        vectors = functools.partial(_vectors_packed, tx, ema_decay)
        new, finite, norm = lax.platform_dependent(*operands, cuda=packed, rocm=packed, tpu=vectors, default=form)
    else:
        new, finite, norm = form(*operands)
    return state.replace(**new._asdict(), step=state.step + 1), finite, norm


def _leaf_by_leaf(
    tx: optax.GradientTransformation,
    ema_decay: float | Averaging | None,
    old: _Parts,
    grads: PyTree,
    stats: PyTree,
    value: jax.Array,
    updates_made: jax.Array,
) -> tuple[_Parts, jax.Array, jax.Array]:
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
    new = _updated(tx, ema_decay, old, grads, stats, finite, updates_made)
    # check the result too: a finite gradient times a huge rate overflows, and must not reach a checkpoint
    finite &= _all_finite(new.params) & _all_finite(new.batch_stats)
    return _chosen(finite, new, old), finite, grad_norm


def _packed(
    tx: ElementwiseTransformation,
    ema_decay: float | Averaging | None,
    old: _Parts,
    grads: PyTree,
    stats: PyTree,
    value: jax.Array,
    updates_made: jax.Array,
) -> tuple[_Parts, jax.Array, jax.Array]:
    packing = Packing.of(old.params, tx.labels)
    # Made once: otherwise XLA transposes every kernel's gradient, parameter and momentum, some of them twice.
    packed = lax.optimization_barrier(packing.pack(grads))
    grad_norm = optax.tree.norm(packed)
    finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
    stats, before = _side_by_side(stats, old.batch_stats)

    def updated(old: _Parts, grads: PyTree) -> _Parts:
        return _updated(tx, ema_decay, old, grads, stats, finite, updates_made)

    # Only the sum of what is computed here is kept. The parameters themselves are computed leaf by leaf from slices of
    # one vector, which makes XLA put those of one shape into one kernel.
    as_one = _Parts(packing.pack(old.params), before, packing.pack(old.opt_state), packing.pack(old.ema))
    accepted = finite & _all_finite((updated(as_one, packed).params, stats), joined=True)
    new = updated(old, packing.unpack(packed, old.params))
    return _chosen(accepted, new, old._replace(batch_stats=before)), accepted, grad_norm


def _vectors_packed(
    tx: ElementwiseTransformation,
    ema_decay: float | Averaging | None,
    old: _Parts,
    grads: PyTree,
    stats: PyTree,
    value: jax.Array,
    updates_made: jax.Array,
) -> tuple[_Parts, jax.Array, jax.Array]:
    """Leaf by leaf, but vectors are checked together, and each other leaf once, by the sum of its gradient's squares.

    0 times the resulting parameter is added to that sum, which is 0, or NaN if the parameter is not finite. So one sum
    covers both, computed where the gradient is: another check would read it again. If an update overflows, the norm is
    therefore NaN as well.
    """
    labels = jax.tree.map(lambda leaf, label: label if leaf.ndim < 2 else None, old.params, tx.labels)
    packing = Packing.of(old.params, labels)
    packed = packing.pack(grads)

    def updated(old: _Parts, grads: PyTree, finite: jax.Array) -> _Parts:
        return _updated(tx, ema_decay, old, grads, stats, finite, updates_made)

    as_one = _Parts(packing.pack(old.params), old.batch_stats, packing.pack(old.opt_state), packing.pack(old.ema))
    # The norm is not known yet; whatever it is, either this is applied, or nothing.
    seen = updated(as_one, packed, jnp.bool_(True)).params
    squares = jax.tree.map(lambda g, new: jnp.sum(jnp.square(g) + 0 * new), packed, seen)
    grad_norm = jnp.sqrt(optax.tree.sum(squares))
    finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
    accepted = finite & _all_finite(stats)
    return _chosen(accepted, updated(old, grads, finite), old), accepted, grad_norm


def _side_by_side(new: PyTree, old: PyTree) -> tuple[PyTree, PyTree]:
    """Return both trees, whose leaves are slices of a few vectors that contain some of each."""
    if not jax.tree.leaves(new):
        return new, old
    pairs = jax.tree.map(lambda a, b: (a, b), new, old)
    packing = Packing.of(pairs, jax.tree.map(lambda _: "statistic", pairs))
    pairs = packing.unpack(lax.optimization_barrier(packing.pack(pairs)), pairs)
    return jax.tree.transpose(jax.tree.structure(new), jax.tree.structure((0, 0)), pairs)


def _updated(
    tx: optax.GradientTransformation,
    ema_decay: float | Averaging | None,
    old: _Parts,
    grads: PyTree,
    stats: PyTree,
    finite: jax.Array,
    updates_made: jax.Array,
) -> _Parts:
    """Return the result of the optimizer's update, whether finite or not.

    Args:
        tx: the optimizer.
        ema_decay: decay of the moving averages.
        old: the values before the update.
        grads: gradients of the parameters.
        stats: running statistics after the step.
        finite: whether loss and gradient are finite; if not, the gradient is replaced by 0.
        updates_made: number of updates before this one.
    """
    # The update thereby waits for the whole gradient. Otherwise the optimizer's results for the last stages are held
    # while the activations of the first are still needed: 28 MiB more for ResNet-1202 with remat.
    grads = jax.tree.map(lambda g: jnp.where(finite, g, jnp.zeros((), g.dtype)), grads)
    updates, opt_state = tx.update(grads, old.opt_state, old.params)
    params = optax.apply_updates(old.params, updates)
    ema = old.ema
    if ema_decay is not None:
        ema = ema_update(ema, {"params": params, "batch_stats": stats}, ema_decay, updates_made)
    return _Parts(params, stats, opt_state, ema)


def _chosen(finite: jax.Array, new: _Parts, old: _Parts) -> _Parts:
    """Return the new parts if everything is finite, otherwise the old ones."""
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def _parts(state: TrainState) -> _Parts:
    return _Parts(state.params, state.batch_stats, state.opt_state, state.ema)


def _updates_made(state: TrainState) -> jax.Array:
    """Return the number of updates by the optimizer's count, if it has one (ours do), otherwise the steps tried."""
    counts = [count for _, count in optax.tree.get_all_with_path(state.opt_state, "count")]
    return counts[0] if counts else state.step


def _all_finite(tree: PyTree, *, joined: bool = False) -> jax.Array:
    """Return whether every value of a tree is finite; ``joined`` checks all leaves of a dtype at once.

    Non-finite values are counted, by a product. On a CPU, XLA turns a conjunction into a chain of ANDs, one per leaf,
    and puts all of it into every fusion that waits for it: 8 of the 13 CPU seconds in which resnet20_cifar's step
    compiled.
    """
    leaves = jax.tree.leaves(tree)
    if joined:
        kinds: dict[Any, list[jax.Array]] = {}
        for leaf in leaves:
            if leaf.size:
                kinds.setdefault(leaf.dtype, []).append(leaf.ravel())
        leaves = [jnp.concatenate(alike) for alike in kinds.values()]
    wrong = [(~jnp.isfinite(leaf)).any() for leaf in leaves]
    if joined or not wrong:
        return ~jnp.asarray(wrong, bool).any()
    counted = jnp.stack(wrong).astype(jnp.float32)
    return jnp.dot(counted, counted) == 0
