"""One state or a population of them, told apart by nothing but the rank of ``step``: what the loop needs of either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.training.progress import Progress
from resnet_jax.training.state import TrainState

if TYPE_CHECKING:  # Orbax is slow to import
    from resnet_jax.training.checkpoint import Checkpoints, Kind


def is_population(state: TrainState) -> bool:
    """Return whether the leaves have a leading axis of members."""
    return np.ndim(state.step) == 1


def members_of(state: TrainState) -> int:
    """Return the number of members; 1 for a state alone."""
    return state.step.shape[0] if is_population(state) else 1


def updates_done(state: TrainState) -> int:
    """Return the updates done, which all members have in common."""
    return int(state.step[0]) if is_population(state) else int(state.step)


@jax.jit
def copied(tree: Any) -> Any:
    """Return a copy in memory of its own: what a step is given is gone afterwards."""
    return jax.tree.map(jnp.copy, tree)


def chosen(members: Sequence[int], those: TrainState, others: TrainState) -> TrainState:
    """Return a population with ``members`` of ``those``, and of the ``others`` the rest and the step.

    Args:
        members: numbers of the members.
        those: a population.
        others: another of the same structure.
    """
    mask = np.zeros(members_of(those), bool)
    mask[list(members)] = True
    return _chosen(mask, those, others)


@jax.jit
def _chosen(mask: jax.Array, those: TrainState, others: TrainState) -> TrainState:
    def one(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(one, those, others).replace(step=others.step)


def save(checkpoints: Checkpoints, kind: Kind, state: TrainState, progress: Progress) -> None:
    """Start writing a state, or a population under the step that its members share."""
    if is_population(state):
        checkpoints.save(kind, state.replace(step=state.step[0]), progress.to_json(), axis=1)
    else:
        checkpoints.save(kind, state, progress.to_json())


def restore(
    checkpoints: Checkpoints, kind: Kind, like: TrainState, *, at_most: int | None = None
) -> tuple[TrainState, Progress]:
    """Load what :func:`save` wrote.

    Args:
        checkpoints: of this run or population.
        kind: ``last`` or ``best``.
        like: a state, or a population of the same members, on its devices.
        at_most: of this step or before; None for the newest.

    Raises:
        RunError: there is no checkpoint, or it does not fit.
    """
    if not is_population(like):
        state, progress = checkpoints.restore(kind, like, at_most=at_most)
        return state, Progress.from_json(progress)
    where = like.step.sharding
    single = like.replace(step=jax.device_put(like.step[0], where))
    states, progress = checkpoints.restore(kind, single, axis=1, at_most=at_most)
    steps = jnp.broadcast_to(states.step, (members_of(like),))
    return states.replace(step=jax.device_put(steps, where)), Progress.from_json(progress)
