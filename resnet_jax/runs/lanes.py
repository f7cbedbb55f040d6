"""Lanes: runs that differ in numbers, trained as the members of one compiled population.

A lane is a run: its seed, and its own values of array-valued options (:mod:`resnet_jax.runs.carried`). The step of one
run is built **inside the trace** from a lane's values, which are traced scalars, and mapped over lanes. So lane k
computes what the step of its configuration computes, and one program serves all values. Results are equal within
rounding: values are float32, and what a run computes from them in float64 while tracing (1 - b2), a lane computes in
float32. Lanes need not be in lockstep: each has its own number of updates done, which determines its learning rate, its
batches and its random draws.

>>> from resnet_jax.runs.data import load_images
>>> from resnet_jax.runs.recipes import load_recipe
>>> from resnet_jax.training.mesh import make_mesh
>>> recipe = load_recipe("digits")
>>> lanes = build_lanes(recipe, load_images(recipe), make_mesh(), ["optim.learning_rate", "task.label_smoothing"])
>>> lanes.names
('optim.learning_rate', 'task.label_smoothing')

Then use ``lanes.new_states(seeds)``, ``lanes.advance(states, values, seeds, starts, count)`` and
``lanes.evaluate(states, records)``; ``lanes.restart(states, k, seed)`` starts another run in lane k. The number of
lanes is that of the first population; another number needs another program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.data.records import Records
from resnet_jax.data.transforms import divide
from resnet_jax.errors import UsageError
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.resnet import ResNet
from resnet_jax.ops import in_forms
from resnet_jax.runs.build import (
    RunComponents,
    build_parts,
    evaluation_feed,
    iterate_feed,
    loss_scaling,
    training_feed,
)
from resnet_jax.runs.carried import CARRIED, Ingredients, carried_options, carries, encoded, values_of, why_not
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.corrupt import said_skipped, share
from resnet_jax.runs.data import RunData
from resnet_jax.runs.feeding import fits_resident
from resnet_jax.runs.preparation import eval_preprocess, train_preprocess
from resnet_jax.runs.refreshed import batches_of
from resnet_jax.training.compile import INIT_OPTIONS, compile_eval_step, compile_train_step, options_for
from resnet_jax.training.dispatch import compile_multi_step, put_resident
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.members import members_of, with_member
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.placement import Devices, Placement, as_placement
from resnet_jax.training.population import (
    BATCH_AXIS,
    evaluate_population,
    stack_batches,
    stack_members,
)
from resnet_jax.training.state import TrainState, init_state
from resnet_jax.training.step import make_eval_step

__all__ = ["CARRIED", "UPDATES_PER_CALL", "Lanes", "build_lanes", "carries"]

#: Updates per call if the training set is on the devices; a call with fewer updates uses the same program.
UPDATES_PER_CALL = 16

Values = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Lanes:
    """The compiled programs of a population whose members differ in values; made by :func:`build_lanes`.

    Attributes:
        parts: parts of the configuration that all lanes share.
        names: dotted options that may differ between lanes; the seed always may.
        config: that configuration.
        images: what all lanes train on.
        placement: the devices.
    """

    parts: RunComponents
    names: tuple[str, ...]
    config: RunConfig
    images: RunData
    placement: Placement
    _init: Callable[[jax.Array], TrainState]
    _update: Callable[..., Any]
    _eval_step: Callable[..., Any]
    _resident: Callable[[], Mapping[str, jax.Array]] | None
    _feed: Callable[[int], TrainBatches]

    def new_state(self, seed: int) -> TrainState:
        """Return the state that the run with this seed starts from, as made by ``parts.new_state``."""
        return self._init(jax.random.key(seed))

    def new_states(self, seeds: Sequence[int]) -> TrainState:
        """Return a population (K, ...): lane k starts exactly as the run with ``seeds[k]``."""
        states = [self.new_state(seed) for seed in seeds]
        where = self.placement.state(jax.eval_shape(stack_members, states))  # as updates leave it: one program for all
        return jax.jit(stack_members, out_shardings=where)(states)

    def restart(self, states: TrainState, lane: int, seed: int) -> TrainState:
        """Return the population with a new run of another seed in one lane; the population's memory is reused.

        Nothing is recompiled. Pass the values of the run to the next :meth:`advance`.

        Raises:
            UsageError: if there is no such lane.
        """
        if not 0 <= lane < members_of(states):
            raise UsageError(f"no lane {lane}: the population has lanes 0..{members_of(states) - 1}")
        return with_member(states, np.int32(lane), self.new_state(seed))

    def advance(
        self, states: TrainState, values: Values, seeds: Sequence[int], starts: Sequence[int], count: int
    ) -> tuple[TrainState, dict[str, np.ndarray]]:
        """Make ``count`` updates of every lane.

        Args:
            states: a population of K; donated.
            values: values of every option in ``names``, (K,), in the option's own unit; infinity stands for clipping of
                None. The caller must check their ranges, with each lane's configuration
                (:func:`~resnet_jax.runs.carried.with_options`, :func:`~resnet_jax.runs.carried.values_of`).
            seeds: seeds of the K lanes.
            starts: number of updates that each lane has done, its ``states.step``, K.
            count: number of updates.

        Returns:
            The population, and the metrics of every update, (count, K) each, on the host.

        Raises:
            UsageError: if values, seeds or starts do not fit the population or its names.
        """
        lanes = members_of(states)
        carry = states, self._encoded(values, lanes)
        for what, given in (("seeds", seeds), ("starts", starts)):
            if len(given) != lanes:
                raise UsageError(f"got {len(given)} {what} for a population of {lanes} lanes")
        feeds, rows = [self._feed(seed) for seed in seeds], []
        if self._resident is None:
            for batch in self._batches(feeds, starts, count):
                carry, metrics = self._update(carry, self.placement.shard(batch, BATCH_AXIS))
                rows.append({name: metric[None] for name, metric in metrics.items()})
        else:
            for first in range(0, count, UPDATES_PER_CALL):
                made = min(UPDATES_PER_CALL, count - first)
                chunk = self._chunk(feeds, [start + first for start in starts], made)
                carry, metrics = self._update(carry, self._resident(), chunk)
                rows.append({name: metric[:made] for name, metric in metrics.items()})
        fetched = jax.device_get(rows)
        return carry[0], {name: np.concatenate([row[name] for row in fetched]) for name in fetched[0]} if rows else {}

    def evaluate(self, states: TrainState, records: Records, values: Values | None = None) -> list[Evaluation]:
        """Evaluate every lane on the same examples, each read once, with averaged parameters if there are any.

        Args:
            states: a population.
            records: the examples to evaluate on.
            values: as for :meth:`advance`, for the loss that each lane minimizes; None: the loss of the configuration
                (its label smoothing), which is the same measure for all.

        Returns:
            One evaluation per lane, in order.
        """
        lanes = members_of(states)
        values = values_of([self.config] * lanes, self.names) if values is None else values
        variables = states.eval_variables, self._encoded(values, lanes)
        unreadable = self.images.unreadable_of(records)
        feed = evaluation_feed(self.config, records, unreadable=unreadable)
        found = evaluate_population(self._eval_step, variables, feed, mesh=self.placement, task=self.parts.task)
        if unreadable is None:
            return found
        share(unreadable)
        if not unreadable:
            return found
        said = said_skipped(unreadable.split, len(unreadable), unreadable.total)
        return [dataclasses.replace(one, notes=(*one.notes, said)) for one in found]

    def _encoded(self, values: Values, lanes: int) -> dict[str, jax.Array]:
        if set(values) != set(self.names):
            raise UsageError(f"got values of {', '.join(values) or 'nothing'} for lanes that differ in {self.names}")
        found = {}
        for name in self.names:
            numbers = np.asarray(values[name], np.float64)
            if numbers.shape != (lanes,) or np.isnan(numbers).any():
                raise UsageError(f"{name} must be a number for each of {lanes} lanes, got {values[name]!r}")
            found[name] = encoded(name, numbers)
        return jax.device_put(found, self.placement.outputs)  # as a call leaves them: one program for all calls

    def _chunk(self, feeds: Sequence[TrainBatches], starts: Sequence[int], count: int) -> dict[str, Any]:
        """Return a call's part of the resident examples: ``index`` and ``epoch`` (updates, K, B), and ``count``."""
        rows = feeds[0].order(starts[0])[0].shape[0]
        index = np.zeros((UPDATES_PER_CALL, len(feeds), rows), np.int32)
        epoch = np.zeros_like(index)
        for lane, (feed, start) in enumerate(zip(feeds, starts, strict=True)):
            for update in range(count):
                index[update, lane], epoch[update, lane] = feed.order(start + update)
        placed = self.placement.shard({"index": index, "epoch": epoch}, BATCH_AXIS + 1)
        return {**placed, "count": jax.device_put(np.int32(count), self.placement.outputs)}

    def _batches(
        self, feeds: Sequence[TrainBatches], starts: Sequence[int], count: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield the stacked host batches of the lanes, each from its own update on."""
        with contextlib.ExitStack() as stack:
            streams = [
                iterate_feed(feed, self.config, start, start + count) for feed, start in zip(feeds, starts, strict=True)
            ]
            for stream in streams:
                stack.callback(getattr(stream, "close", lambda: None))
            for batches in zip(*streams, strict=True):
                yield stack_batches(batches)


def build_lanes(config: RunConfig, images: RunData, mesh: Devices, names: Sequence[str]) -> Lanes:
    """Build the programs of a population whose lanes may differ in the options ``names``, and in the seed.

    Nothing is compiled before the first call.

    Args:
        config: what all lanes share; its values of ``names`` have no effect.
        images: images of its data.
        mesh: the devices.
        names: dotted options, see :data:`~resnet_jax.runs.carried.CARRIED`.

    Raises:
        UsageError: for an option that cannot be an array value, listing those that can; or for a configuration that
            lanes do not support: one with wall-clock limits, other initial weights, or shapes that change on the way.
    """
    names = tuple(name for name in dict.fromkeys(names) if name != "seed")
    placement, card = as_placement(mesh), images.card
    parts = build_parts(config, images, mesh)
    ingredients = _ingredients(config, parts)
    for name in names:
        _require_carried(config, name, ingredients)
    variables = abstract_variables(parts.model, card.image_shape)
    _require_lanes(config, has_statistics=bool(jax.tree.leaves(variables.get("batch_stats", {}))))
    params, length = variables["params"], (parts.plan.steps_per_epoch, parts.plan.total_steps)
    scaling = loss_scaling(config, parts.model)

    def optimizer(changed: Ingredients) -> Any:
        return make_optimizer(changed.optim, params, steps_per_epoch=length[0], total_steps=length[1])[0]

    def init(key: jax.Array) -> TrainState:
        # the optimizer state has everything that any value needs, such as a momentum; none of its numbers depend on
        # the values
        ones = {name: jnp.asarray(encoded(name, np.ones(1))[0]) for name in names}
        tx = optimizer(ingredients.with_values(ones))
        averaged = ingredients.averaging is not None
        return init_state(parts.model, tx, key, card.image_shape, ema=averaged, loss_scaling=scaling, start=parts.start)

    def lane_step(carry: tuple[TrainState, Mapping[str, jax.Array]], batch: Any) -> Any:
        state, values = carry
        own = ingredients.with_values(values)
        model = ResNet(own.model)
        step = parts.make_step(
            model=model,
            tx=optimizer(own),
            task=own.task,
            preprocess=train_preprocess(config, model, card, transforms=own.transforms),
            ema_decay=own.averaging,
        )
        state, metrics = in_forms(config.train.forms, step)(state, batch)
        return (state, values), metrics

    def lane_eval_step(variables: tuple[Any, Mapping[str, jax.Array]], batch: Any) -> Any:
        task = ingredients.with_values(variables[1]).task
        step = make_eval_step(parts.model, task=task, preprocess=eval_preprocess(parts.model, card))
        return in_forms(config.train.forms, step)(variables[0], batch)

    feed_of = functools.lru_cache(maxsize=256)(
        lambda seed: training_feed(dataclasses.replace(config, seed=seed), images)
    )
    first = feed_of(config.seed)
    resident = fits_resident(first, placement)
    compiler = compile_multi_step if resident else compile_train_step
    where = placement.state(jax.eval_shape(init, jax.random.key(0)))
    return Lanes(
        parts=parts,
        names=names,
        config=config,
        images=images,
        placement=placement,
        _init=jax.jit(init, out_shardings=where, compiler_options=options_for(INIT_OPTIONS, placement)),
        _update=compiler(_over_lanes(lane_step, placement), placement, batch_axis=BATCH_AXIS),
        _eval_step=compile_eval_step(_over_lanes(lane_eval_step, placement, shared=True), placement, mapped=False),
        _resident=functools.cache(lambda: put_resident(first.resident(), placement)) if resident else None,
        _feed=feed_of,
    )


def is_loop(placement: Placement) -> bool:
    """Return whether lanes are computed one after another, which needs memory for only one: on a single CPU device."""
    return placement.size == 1 and placement.platform == "cpu"


def _over_lanes(step: Callable[..., Any], placement: Placement, *, shared: bool = False) -> Callable[..., Any]:
    """Return ``step(carry, batch)`` of one lane, for all lanes.

    On a single CPU device this is a loop over lanes: the arithmetic is the same in either form, and a loop compiles one
    lane's step. Elsewhere one lane does not fill the device, and they are computed side by side.

    Args:
        step: the step of one lane.
        placement: the devices.
        shared: whether all lanes take the same batch.
    """
    if not is_loop(placement):
        return jax.vmap(step, in_axes=(0, None if shared else 0))
    if shared:
        return lambda carry, batch: jax.lax.map(lambda lane: step(lane, batch), carry)
    return lambda carry, batch: jax.lax.map(lambda lane: step(*lane), (carry, batch))


def _ingredients(config: RunConfig, parts: RunComponents) -> Ingredients:
    averaging = config.train.averaging()
    if averaging is not None:
        averaging = averaging.over(parts.plan.steps_per_epoch, parts.plan.total_steps)
    return Ingredients(config.optim, parts.model.config, parts.task, averaging, divide(config.data.augment).device)


def _require_carried(config: RunConfig, name: str, ingredients: Ingredients) -> None:
    reason = why_not(config, name)
    if reason is None and name.startswith("task.") and not hasattr(ingredients.task, name.partition(".")[2]):
        reason = f"task.kind {ingredients.task.kind} does not use it"
    if reason is not None:
        known = ", ".join(carried_options(config))
        raise UsageError(f"lanes cannot differ in {name}: {reason}. They can differ in: {known}")


def _require_lanes(config: RunConfig, *, has_statistics: bool) -> None:
    """Reject what a run does besides its steps.

    Raises:
        UsageError: for such a choice.
    """
    refused = {
        "init_from": config.init_from is not None and "lanes start from scratch: leave it out",
        "task.distill.teacher": config.task.distill.teacher is not None and "lanes have no teacher: leave it out",
        "data.sizes": bool(config.data.sizes) and "lanes have images of one size: leave it out",
        "train.spikes": config.train.spikes.factor is not None and "no lane goes back: leave out train.spikes.factor",
        "train.ema.reestimate": bool(batches_of(config, has_statistics=has_statistics))
        and "lanes do not measure statistics anew: set train.ema.reestimate 0",
        "model.param_dtype": config.model.config().param_dtype != "float32" and "lanes have float32: leave it out",
    }
    for option, reason in refused.items():
        if reason:
            raise UsageError(f"{option}: {reason}")
