"""Populations: K training states (seeds, learning rates) updated by one compiled program.

A population is a :class:`~resnet_jax.training.state.TrainState` whose leaves all have a leading axis of members, and
its step is ``jax.vmap`` of the step of one run over that axis. So anything that trains alone trains as a population,
and member k is the run with key k: its initialization, its batches, its augmentation and dropout, and its rejected
steps, which do not affect the other members. The numbers equal those of separate runs within float rounding (the
compiler may order the sums of a convolution over members differently).

>>> import optax
>>> from flax import linen as nn
>>> from resnet_jax.training.placement import make_mesh
>>> class Tiny(nn.Module):
...     @nn.compact
...     def __call__(self, x, *, train):
...         return nn.Dense(2)(x.reshape(x.shape[0], -1))
>>> tx = with_rate_scale(optax.sgd(0.1))
>>> keys = jax.vmap(jax.random.key)(jnp.arange(3, dtype=jnp.uint32))
>>> states = create_population(Tiny(), tx, keys, (4, 4, 1), mesh=make_mesh(), rate_scales=(1.0, 1.0, 10.0))
>>> states.params["Dense_0"]["kernel"].shape, population_size(states)
((3, 16, 2), 3)
>>> member(states, 1).params["Dense_0"]["kernel"].shape
(16, 2)
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from resnet_jax.errors import UsageError
from resnet_jax.tasks.task import Task
from resnet_jax.training.compile import INIT_OPTIONS, compile_eval_step, compile_train_step, options_for
from resnet_jax.training.evaluation import Evaluation, EvaluationSums, evaluated_task
from resnet_jax.training.lookahead import LookaheadState
from resnet_jax.training.options import LossScaling
from resnet_jax.training.packing import ElementwiseTransformation
from resnet_jax.training.placement import Devices, as_placement, shard_batch
from resnet_jax.training.shrinkage import ThresholdState
from resnet_jax.training.state import TrainState, init_state

#: The axis of examples in a batch of a population, whose leading axis is the members.
BATCH_AXIS = 1


class RateScaleState(NamedTuple):
    """State of :func:`with_rate_scale`.

    Attributes:
        scale: float32 scalar the update is multiplied by; training never changes it.
        inner: state of the wrapped optimizer.
    """

    scale: jax.Array
    inner: Any


def with_rate_scale(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Multiply every update of ``tx`` by a number kept in its state, initially 1.

    Since the learning rate is a factor of the update of every optimizer here, under any schedule, this equals training
    with the rate times that number; decoupled weight decay, which the rate multiplies, is scaled with it. The members
    of one compiled population can thus have their own learning rates.

    Raises:
        UsageError: when a state is created, for L1 by soft-thresholding or lookahead, whose final step to exact zeros
            or slow weights would be changed by a later factor.
    """

    def init(params: Any) -> RateScaleState:
        inner = tx.init(params)
        if any(map(_is_threshold, jax.tree.leaves(inner, is_leaf=_is_threshold))):
            raise UsageError("rates of the members do not go with optim.l1_step proximal: use subgradient")
        if any(map(_is_lookahead, jax.tree.leaves(inner, is_leaf=_is_lookahead))):
            raise UsageError("rates of the members do not go with optim.lookahead: leave it out, or give one rate")
        return RateScaleState(jnp.ones((), jnp.float32), inner)

    def update(updates: Any, state: RateScaleState, params: Any = None) -> tuple[Any, RateScaleState]:
        updates, inner = tx.update(updates, state.inner, params)
        updates = jax.tree.map(lambda u: u * state.scale.astype(u.dtype), updates)
        return updates, RateScaleState(state.scale, inner)

    scaled = optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]
    return ElementwiseTransformation.of(scaled, tx.labels) if isinstance(tx, ElementwiseTransformation) else scaled


def _is_threshold(node: Any) -> bool:
    return isinstance(node, ThresholdState)


def _is_lookahead(node: Any) -> bool:
    return isinstance(node, LookaheadState)


def create_population(
    model: nn.Module,
    tx: optax.GradientTransformation,
    keys: jax.Array,
    input_shape: Sequence[int],
    *,
    mesh: Devices,
    ema: bool = False,
    loss_scaling: LossScaling | None = None,
    rate_scales: Sequence[float] | None = None,
    start: Callable[[Any], Any] | None = None,
) -> TrainState:
    """Build the states of K runs inside one jit, directly on their devices.

    Args:
        model: any Linen module called as ``model(x, train=...)``.
        tx: the optimizer; from :func:`with_rate_scale` if the members' rates differ.
        keys: (K,) PRNG keys, one per member; member k starts like ``create_state`` with ``keys[k]``.
        input_shape: shape of one example, without the batch axis.
        mesh: the devices.
        ema: also keep moving averages.
        loss_scaling: loss scaling of the train step, if any; every member has its own scale.
        rate_scales: factors of each member's learning rate; None for 1.
        start: as for :func:`~resnet_jax.training.state.init_state`.

    Returns:
        A state whose leaves have a leading axis of K members.

    Raises:
        UsageError: if there are no keys, the number of scales differs from the number of members, or the optimizer has
            no scale.
    """
    if keys.ndim != 1 or not keys.shape[0]:
        raise UsageError(f"a population needs one or more PRNG keys, shape (members,), got shape {keys.shape}")
    members = keys.shape[0]
    if rate_scales is not None and len(rate_scales) != members:
        raise UsageError(f"got {len(rate_scales)} learning-rate scales for {members} members")

    def init(key: jax.Array, scale: jax.Array | None) -> TrainState:
        state = init_state(model, tx, key, input_shape, ema=ema, loss_scaling=loss_scaling, start=start)
        if scale is None:
            return state
        if not isinstance(state.opt_state, RateScaleState):
            raise UsageError("learning rates of the members need an optimizer made by with_rate_scale(...)")
        return state.replace(opt_state=state.opt_state._replace(scale=scale))

    scales = None if rate_scales is None else jnp.asarray(rate_scales, jnp.float32)
    where = as_placement(mesh).state(jax.eval_shape(jax.vmap(init), keys, scales))
    return jax.jit(jax.vmap(init), out_shardings=where, compiler_options=options_for(INIT_OPTIONS, mesh))(keys, scales)


def stack_members(states: Sequence[TrainState]) -> TrainState:
    """Stack separate states of one structure into a population.

    Raises:
        UsageError: if there are none.
    """
    if not states:
        raise UsageError("a population needs one or more states")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def population_size(states: TrainState) -> int:
    """Return the number of members."""
    return states.step.shape[0]


def member(states: TrainState, index: int) -> TrainState:
    """Return one member as an ordinary state, which the step of one run can train further.

    Raises:
        UsageError: if there is no such member.
    """
    if not 0 <= index < population_size(states):
        raise UsageError(f"no member {index}: the population has members 0..{population_size(states) - 1}")
    return jax.tree.map(lambda leaf: leaf[index], states)


def make_population_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """Turn ``step(state, batch)`` of one run into that of a population: states, batches, metrics with members first.

    Args:
        step: from :func:`~resnet_jax.training.step.make_train_step`, not compiled. Arrays passed as its third argument
            are shared by all members.
    """

    @functools.wraps(step)
    def population_step(states: Any, batches: Any, *given: Any) -> Any:
        return jax.vmap(step, in_axes=(0, 0, *(None for _ in given)))(states, batches, *given)

    return population_step


def compile_population_step(step: Callable[..., Any], mesh: Devices, *, donate: bool = True) -> Callable[..., Any]:
    """Compile the step of one run for a population: donated states, examples sharded over the devices.

    Args:
        step: ``(state, batch) -> (state, metrics)`` of one run, not compiled.
        mesh: the devices; put batches there with ``shard_batch(batch, mesh, BATCH_AXIS)``.
        donate: whether the states' memory may be reused.
    """
    return compile_train_step(make_population_step(step), mesh, donate=donate, batch_axis=BATCH_AXIS)


def compile_population_eval_step(step: Callable[..., Any], mesh: Devices) -> Callable[..., Any]:
    """Compile the eval step of one run for the variables of a population and one batch shared by all members."""
    return compile_eval_step(jax.vmap(step, in_axes=(0, None)), mesh, mapped=False)


def stack_batches(batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stack the members' host batches of one step: each (N, ...) becomes (K, N, ...).

    >>> stack_batches([{"label": np.zeros(4)}, {"label": np.ones(4)}])["label"].shape
    (2, 4)
    """
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def stack_streams(
    streams: Sequence[Callable[[int, int], Iterator[Mapping[str, np.ndarray]]]],
) -> Callable[[int, int], Iterator[dict[str, np.ndarray]]]:
    """Return ``(start, stop) -> `` the members' host batches of those steps, stacked."""

    def batches(start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        with contextlib.ExitStack() as stack:
            opened = [stream(start, stop) for stream in streams]
            for one in opened:
                stack.callback(getattr(one, "close", lambda: None))
            for members in zip(*opened, strict=True):
                yield stack_batches(members)

    return batches


def evaluate_population(
    eval_step: Callable[..., Mapping[str, Any]],
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    mesh: Devices,
    task: Task | None = None,
    num_classes: int | None = None,
) -> list[Evaluation]:
    """Evaluate every member on the same masked host batches, each read once.

    Args:
        eval_step: from :func:`compile_population_eval_step`.
        variables: variables with the axis of members, as ``states.eval_variables``.
        batches: as for :func:`~resnet_jax.training.evaluation.evaluate`.
        mesh: the devices.
        task: the task of the step.
        num_classes: number of classes, instead of a task, for classification.

    Raises:
        ValueError: if there was no example at all.
        UsageError: if a target is invalid.
    """
    task = evaluated_task(task, num_classes)
    sums = [EvaluationSums(task) for _ in range(jax.tree.leaves(variables)[0].shape[0])]
    for batch in batches:
        task.check(batch)
        out = jax.device_get(eval_step(variables, shard_batch(batch, mesh)))
        for index, total in enumerate(sums):
            total.add(batch, jax.tree.map(lambda value, index=index: value[index], out))
    return [total.result() for total in sums]
