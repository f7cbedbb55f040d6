"""A uniform view of one state or a population, told apart only by the rank of ``step``: what the loop needs of both."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from resnet_jax.training.progress import Progress
from resnet_jax.training.state import TrainState

if TYPE_CHECKING:  # Orbax is slow to import
    from resnet_jax.training.checkpoint import Checkpoints, Kind
    from resnet_jax.training.manifest import Score


def is_population(state: TrainState) -> bool:
    """Return whether the leaves have a leading axis of members."""
    return np.ndim(state.step) == 1


def members_of(state: TrainState) -> int:
    """Return the number of members; 1 for a single state."""
    return state.step.shape[0] if is_population(state) else 1


def updates_done(state: TrainState) -> int:
    """Return the number of updates done, which all members share."""
    return int(state.step[0]) if is_population(state) else int(state.step)


@jax.jit
def copied(tree: Any) -> Any:
    """Return a copy in its own memory, because a step consumes its input."""
    return jax.tree.map(jnp.copy, tree)


def chosen(members: Sequence[int], those: TrainState, others: TrainState) -> TrainState:
    """Return a population with ``members`` taken from ``those``, and the rest and the step from ``others``.

    Args:
        members: indices of the members.
        those: a population.
        others: another population of the same structure.
    """
    mask = np.zeros(members_of(those), bool)
    mask[list(members)] = True
    return _chosen(mask, those, others)


@jax.jit
def _chosen(mask: jax.Array, those: TrainState, others: TrainState) -> TrainState:
    def one(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(one, those, others).replace(step=others.step)


@jax.jit
def member_at(states: TrainState, index: int | jax.Array) -> TrainState:
    """Return a copy of one member, with one compiled program for all members, unlike ``population.member``.

    Args:
        states: a population.
        index: the member, 0-based; not checked.
    """
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, index, keepdims=False), states)


@functools.partial(jax.jit, donate_argnums=0)
def with_member(states: TrainState, index: int | jax.Array, state: TrainState) -> TrainState:
    """Return a population in which one member is replaced by another state; the population's memory is reused.

    Args:
        states: the population; donated.
        index: the member, 0-based; not checked. It is an argument of the compiled program.
        state: a state of the same structure, without the axis of members.
    """

    def written(many: jax.Array, one: jax.Array) -> jax.Array:
        return lax.dynamic_update_index_in_dim(many, one, index, 0)

    return jax.tree.map(written, states, state)


def save(
    checkpoints: Checkpoints, kind: Kind, state: TrainState, progress: Progress, score: Score | None = None
) -> None:
    """Start writing a state, or a population under the step that its members share.

    Args:
        checkpoints: the checkpoints of this run or population.
        kind: ``last`` or ``best``.
        state: a state or a population.
        progress: the progress at the same step.
        score: see :meth:`~resnet_jax.training.checkpoint.Checkpoints.save`; a population has none.

    Raises:
        RunError: if it cannot be written.
    """
    if is_population(state):
        checkpoints.save(kind, state.replace(step=state.step[0]), progress.to_json(), axis=1)
    else:
        checkpoints.save(kind, state, progress.to_json(), score=score)


def restore(
    checkpoints: Checkpoints, kind: Kind, like: TrainState, *, at_most: int | None = None
) -> tuple[TrainState, Progress]:
    """Load what :func:`save` wrote.

    Args:
        checkpoints: the checkpoints of this run or population.
        kind: ``last`` or ``best``.
        like: a state, or a population of the same members, on its devices.
        at_most: the latest step to consider; None for the newest.

    Raises:
        RunError: if there is no checkpoint, or it does not fit.
    """
    found = checkpoints.restore(kind, _with_one_step(like), axis=int(is_population(like)), at_most=at_most)
    return _as_given(*found, like)


def resume(checkpoints: Checkpoints, like: TrainState) -> tuple[TrainState, Progress] | None:
    """Load the state to resume training from; None if nothing has been saved so far.

    Args:
        checkpoints: the checkpoints of this run or population.
        like: as for :func:`restore`.

    Raises:
        DamagedError: if there are checkpoints but none is intact.
        RunError: if the checkpoint does not fit.
    """
    found = checkpoints.resume(_with_one_step(like), axis=int(is_population(like)))
    return None if found is None else _as_given(*found, like)


def _with_one_step(like: TrainState) -> TrainState:
    """Return a population with a single step that its members share, which is how it is stored."""
    return like.replace(step=jax.device_put(like.step[0], like.step.sharding)) if is_population(like) else like


def _as_given(state: TrainState, progress: dict[str, Any], like: TrainState) -> tuple[TrainState, Progress]:
    if is_population(like):
        steps = jnp.broadcast_to(state.step, (members_of(like),))
        state = state.replace(step=jax.device_put(steps, like.step.sharding))
    return state, Progress.from_json(progress)
