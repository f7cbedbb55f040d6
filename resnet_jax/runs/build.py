"""From a configuration and its images to the parts of a run: network, optimizer, batches, compiled steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax.data.pipeline import Batch, Batches, EvalBatches, TrainBatches
from resnet_jax.data.records import Records
from resnet_jax.data.unreadable import Unreadable
from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import BlockNames
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.towers import TwoTowers
from resnet_jax.ops import in_forms
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.corrupt import said_skipped, share
from resnet_jax.runs.data import RunData, geometry_of
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.feeding import describe_feed, steps_per_dispatch
from resnet_jax.runs.length import length_of
from resnet_jax.runs.network import build_model as build_model, build_network as build_network, build_task
from resnet_jax.runs.preparation import eval_preprocess, train_preprocess
from resnet_jax.runs.stages import in_stages
from resnet_jax.runs.teacher import Teacher, find_teacher
from resnet_jax.runs.whitening import whitening_start
from resnet_jax.tasks.distillation import distilled
from resnet_jax.tasks.task import Task
from resnet_jax.training.compile import compile_eval_step, compile_train_step, create_state
from resnet_jax.training.dispatch import compile_multi_step
from resnet_jax.training.evaluation import Evaluation, evaluate
from resnet_jax.training.feeds import Feed, ProbedSteps, ResidentSteps, SingleSteps, Staged
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.options import LossScaling
from resnet_jax.training.placement import Devices, Placement, as_placement, check_batch_size
from resnet_jax.training.plan import Plan
from resnet_jax.training.population import BATCH_AXIS, create_population, make_population_step, stack_streams
from resnet_jax.training.schedules import warmup_steps
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import TrainPreprocess, make_eval_step, make_train_step
from resnet_jax.training.views import Views


@dataclasses.dataclass(frozen=True)
class RunComponents:
    """Everything the loop needs, built once.

    Attributes:
        model: the network.
        placement: the devices.
        plan: how long, and what to do on the way.
        tx: the optimizer.
        learning_rate: learning rate of the update with a given 0-based index.
        step: the train step as a pure function; with a teacher, its third argument is the teacher's variables.
        make_step: builds the step in plain forms; keywords replace its parts.
        preprocess: preprocessing of the train step, with its additional arguments.
        evaluate: ``evaluate(variables, records)``.
        new_state: builds the state of update 0.
        new_population: seeds -> the states of update 0 of the runs with these seeds, as one population.
        start: initial parameters -> those of the run, if some are computed from its images; None otherwise.
        make_feed: builds the feed of the run; given seeds, that of a population with one member each; given rollbacks,
            with another order of the examples after each.
        fed: where the training images are stored meanwhile, in words.
        teacher: the teacher of a run with distillation.
    """

    model: ResNet
    task: Task
    placement: Placement
    plan: Plan
    tx: optax.GradientTransformation
    learning_rate: Callable[[int], Any]
    step: Callable[..., Any]
    make_step: Callable[..., Any]
    preprocess: TrainPreprocess
    evaluate: Callable[[Any, Records], Evaluation]
    new_state: Callable[[], TrainState]
    new_population: Callable[[Sequence[int]], TrainState]
    make_feed: Callable[..., Feed]
    fed: str = ""
    teacher: Teacher | None = None
    start: Callable[[Any], Any] | None = None


def build_parts(config: RunConfig, images: RunData, mesh: Devices) -> RunComponents:
    """Build network, optimizer, compiled steps and batches.

    Raises:
        UsageError: for incompatible choices, or a batch size that the data or the devices cannot provide.
    """
    train, card, placement = config.train, images.card, as_placement(mesh)
    check_batch_size(train.batch_size, mesh, accumulate=train.accumulate)
    feed = training_feed(config, images)
    total_steps = length_of(config, feed.steps_per_epoch).steps
    plan = train.plan(feed.steps_per_epoch)
    warmup = warmup_steps(config.optim.schedule, feed.steps_per_epoch, total_steps)
    plan = dataclasses.replace(plan, warmup=warmup)

    model: Any = build_network(config, card, devices=placement.size)  # one, or one of two towers
    task = build_task(config, card)
    teacher = find_teacher(config, card, model, placement)
    given = None if teacher is None else teacher.variables
    task = task if teacher is None else distilled(task, config.task.distill)
    preprocess = train_preprocess(config, model, card, teacher)
    key = jax.random.key(config.seed)
    params = abstract_variables(model, card.image_shape)["params"]
    tx, schedule = make_optimizer(config.optim, params, steps_per_epoch=feed.steps_per_epoch, total_steps=total_steps)
    scaling = loss_scaling(config, model)
    if (averaging := train.averaging()) is not None:
        averaging = averaging.over(feed.steps_per_epoch, total_steps)
    make_step = functools.partial(
        make_train_step,
        model=model,
        tx=tx,
        task=task,
        preprocess=preprocess,
        accumulate=train.accumulate,
        norm_momentum=model.config.norm_momentum,
        ema_decay=averaging,
        loss_scaling=scaling,
    )
    step = in_forms(train.forms, make_step())

    def make(part: RunData) -> Callable[..., Feed]:
        per_call = steps_per_dispatch(config, feed if part is images else training_feed(config, part), mesh)
        return _feed_maker(config, part, placement, step, probed, per_call, given)

    start = whitening_start(model, images)
    begun: dict[str, Any] = {"mesh": mesh, "ema": averaging is not None, "loss_scaling": scaling, "start": start}
    probed = None if train.depth_every is None else in_forms(train.forms, make_step(probe=BlockNames()))
    return RunComponents(
        model=model,
        task=task,
        placement=placement,
        plan=plan,
        tx=tx,
        learning_rate=jax.jit(schedule),  # one small program, not one an operation
        step=step,
        make_step=make_step,
        preprocess=preprocess if given is None else functools.partial(_given_last, preprocess, given),
        teacher=teacher,
        evaluate=build_evaluation(config, model, card, mesh, unreadable_of=images.unreadable_of),
        new_state=lambda: create_state(model, tx, key, card.image_shape, **begun),
        new_population=lambda seeds: create_population(
            model, tx, jnp.stack([jax.random.key(seed) for seed in seeds]), card.image_shape, **begun
        ),
        start=start,
        make_feed=in_stages(config, images, feed.steps_per_epoch, total_steps, make),
        fed=describe_feed(config, feed, mesh),
    )


def _given_last(preprocess: TrainPreprocess, given: Any, key: jax.Array, batch: Any) -> Any:
    return preprocess(key, batch, given)


def loss_scaling(config: RunConfig, model: ResNet | TwoTowers) -> LossScaling | None:
    """Return the configuration of the loss scale if the network computes in float16, otherwise None.

    Raises:
        UsageError: if values are out of range, or set for a network that does not use them.
    """
    scaling = config.train.loss_scale
    if model.config.dtype == "float16":
        return scaling
    if scaling != LossScaling():
        raise UsageError(f"train.loss_scale goes with model.dtype float16; {model.config.dtype} needs none")
    return None


def _feed_maker(
    config: RunConfig, images: RunData, placement: Placement, step: Any, probed: Any, per_call: int, given: Any
) -> Callable[..., Feed]:
    """Return ``make_feed(seeds=None, rollbacks=())``: the calls of the run, or of a population with those seeds.

    After each update in ``rollbacks``, the examples come in another order.

    Args:
        config: the run.
        images: its images.
        placement: the devices.
        step: the train step as a pure function.
        probed: the same step with a probe; None without one.
        per_call: updates per call.
        given: third argument of the step, on the devices; None for none.
    """

    @functools.cache  # a program is compiled once, however many groups of seeds it is for
    def program(kind: Literal["step", "probed", "multi"], population: bool) -> Any:
        pure = step if kind == "step" or probed is None else probed
        pure = make_population_step(pure) if population else pure
        compiler = compile_multi_step if kind == "multi" else compile_train_step
        return compiler(pure, placement, batch_axis=BATCH_AXIS if population else 0, given=given)

    def make_feed(seeds: Sequence[int] | None = None, rollbacks: Sequence[int] = ()) -> Feed:
        orders = tuple(make_order(seeds, salt) for salt in range(len(rollbacks) + 1))
        return Staged((0, *rollbacks), orders) if rollbacks else orders[0]

    def make_order(seeds: Sequence[int] | None, salt: int) -> Feed:
        configs = [config] if seeds is None else [dataclasses.replace(config, seed=seed) for seed in seeds]
        feeds = [training_feed(one, images, salt=salt) for one in configs]
        population, axis = seeds is not None, 0 if seeds is None else BATCH_AXIS
        if per_call > 1:
            return ResidentSteps(
                program("multi", population),
                feeds[0].resident,
                _order_of(feeds) if population else feeds[0].order,
                placement,
                per_call,
                axis,
            )
        streams = [functools.partial(iterate_feed, one, config) for one in feeds]
        batches = stack_streams(streams) if population else streams[0]
        if probed is None:
            return SingleSteps(program("step", population), batches, placement, axis)
        every, both = (
            config.train.depth_steps(feeds[0].steps_per_epoch) or 1,
            (program("step", population), program("probed", population)),
        )
        return ProbedSteps(*both, every, batches, placement, axis)

    return make_feed


def _order_of(feeds: Sequence[TrainBatches]) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Return the order of the members' examples and their epochs, (members, B)."""

    def order(step: int) -> tuple[np.ndarray, np.ndarray]:
        positions, passes = zip(*(feed.order(step) for feed in feeds), strict=True)
        return np.stack(positions), np.stack(passes)

    return order


def training_feed(config: RunConfig, images: RunData, *, salt: int = 0) -> TrainBatches:
    """Return the batches of the run, in the order determined by its seed, or in a different order with a salt.

    Raises:
        UsageError: for a batch size that the images cannot fill.
    """
    return TrainBatches(
        images.splits.train,
        config.train.batch_size,
        seed=config.seed,
        geometry=images.geometry,
        shard=(jax.process_index(), jax.process_count()),
        unreadable=images.unreadable_of(images.splits.train),
        sampling=config.data.sampling,
        salt=salt,
    )


def iterate_feed(feed: TrainBatches, config: RunConfig, start: int, stop: int) -> Batches:
    """Yield the batches of steps ``start`` to ``stop - 1``, in threads or worker processes where that helps."""
    return feed.iterate(start, stop, **_executor(config, stored=feed.stored))


def build_evaluation(
    config: RunConfig,
    model: ResNet,
    card: DatasetInfo,
    mesh: Devices,
    *,
    logits: bool = False,
    summands: bool = False,
    views: Views = "none",
    unreadable_of: Callable[[Records], Unreadable | None] = lambda _: None,
) -> Callable[[Any, Records], Evaluation]:
    """Return ``evaluation(variables, records)``; it compiles once and counts every record once.

    Args:
        config: the run.
        model: its network.
        card: its data.
        mesh: the devices.
        logits: whether to keep the outputs.
        summands: whether to keep the summands of every example (:func:`.make_eval_step`).
        views: test-time views of every image, whose probabilities are averaged.
        unreadable_of: records -> a counter for unreadable ones; None if one stops the evaluation.
    """
    step = build_eval_step(config, model, card, logits=logits, summands=summands, views=views)
    compiled = compile_eval_step(step, mesh)
    task = build_task(config, card)

    def evaluation(variables: Any, records: Records) -> Evaluation:
        unreadable = unreadable_of(records)
        result = evaluate(
            compiled, variables, evaluation_feed(config, records, unreadable=unreadable), mesh=mesh, task=task
        )
        if unreadable is not None:
            share(unreadable)
        if not unreadable:
            return result
        said = said_skipped(unreadable.split, len(unreadable), unreadable.total)
        return dataclasses.replace(result, notes=(*result.notes, said))

    return evaluation


def build_eval_step(
    config: RunConfig,
    model: ResNet,
    card: DatasetInfo,
    *,
    logits: bool = False,
    summands: bool = False,
    views: Views = "none",
) -> Callable[..., dict[str, jax.Array]]:
    """Return the eval step of a run as a pure function; with views, a crop has the size of the card's images."""
    step = make_eval_step(
        model,
        task=build_task(config, card),
        preprocess=eval_preprocess(model, card),
        logits=logits,
        summands=summands,
        views=views,
        crop=card.image_shape[0],
    )
    return in_forms(config.train.forms, step)


def evaluation_feed(config: RunConfig, records: Records, *, unreadable: Unreadable | None = None) -> Iterator[Batch]:
    """Yield masked batches that contain every record once.

    Args:
        config: the run.
        records: the examples to evaluate on.
        unreadable: counts unreadable examples, whose rows have mask False; None to stop at one.
    """
    shard = (jax.process_index(), jax.process_count())
    batches = EvalBatches(
        records, config.train.batch_size, geometry_of(config.data), shard=shard, unreadable=unreadable
    )
    return batches.iterate(**_executor(config, stored=batches.stored))


def _executor(config: RunConfig, *, stored: bool) -> dict[str, int]:
    # indexing pixels in memory is faster than passing them between threads
    return {"threads": 0} if stored else {"threads": config.data.threads, "workers": config.data.workers}
