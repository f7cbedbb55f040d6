"""``fit``: from a configuration to a trained network and its run directory, resumed where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console as RichConsole

from resnet_jax.data.source import is_gone
from resnet_jax.errors import DataError, RunError, UsageError
from resnet_jax.instrument.hooks import BlockNames
from resnet_jax.instrument.probing import chart_blocks
from resnet_jax.models.digest import params_digest
from resnet_jax.report.console import Console
from resnet_jax.report.depth_file import DepthFile
from resnet_jax.report.metrics_file import MetricsFile, read_metrics
from resnet_jax.report.text import say
from resnet_jax.report.trackers import make_observers
from resnet_jax.report.views import View
from resnet_jax.runs.arrays import Arrays, images_of_arrays
from resnet_jax.runs.auto import begin_fit
from resnet_jax.runs.build import RunComponents, build_parts
from resnet_jax.runs.config import RunConfig, config_to_dict
from resnet_jax.runs.corrupt import CorruptList
from resnet_jax.runs.data import RunData, load_images
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.finetune import Source, describe, find_source, require_transfer, start_state
from resnet_jax.runs.fitted import Fit
from resnet_jax.runs.length import Origin, Settled, adopt, earlier_tests, settle
from resnet_jax.runs.outcome import Pictures, Summary, conclude, outcome_of, say_if_stuck
from resnet_jax.runs.recipe_fit import elsewhere, misfit
from resnet_jax.tasks.task import Task
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.feeds import Feed
from resnet_jax.training.interrupt import StopRequest, stop_on_signals
from resnet_jax.training.loop import Interrupted, train
from resnet_jax.training.members import restore
from resnet_jax.training.need import memory_told, require_memory
from resnet_jax.training.observers import Observer, Row, RunFacts, tell
from resnet_jax.training.placement import Placement, make_mesh
from resnet_jax.training.progress import Progress
from resnet_jax.training.schedules import warmup_steps
from resnet_jax.training.state import TrainState
from resnet_jax.training.stuck import Chance, ChanceWatch, has_chance, judge


class _FirstStep(Observer):
    """Observer of the time to the first step."""

    def __init__(self, began: float):
        self._began = began
        self.seconds: float | None = None

    def on_step(self, row: Row) -> None:
        """Stop the watch, once."""
        if self.seconds is None:
            self.seconds = time.perf_counter() - self._began


@dataclasses.dataclass(frozen=True)
class _Job:
    """What the stages of :func:`fit` share."""

    config: RunConfig
    images: RunData
    parts: RunComponents
    run: RunDirectory
    checkpoints: Checkpoints
    console: RichConsole
    source: Source | None
    first_step: _FirstStep
    feed: Feed
    corrupt: CorruptList

    @property
    def chance_in_training(self) -> Chance:
        """What chance gets right in an epoch of training."""
        return Chance.of(
            self.images.splits.train.labels, self.parts.plan.steps_per_epoch * self.config.train.batch_size
        )

    @property
    def pictures(self) -> Pictures:
        """What draws its pictures."""
        return Pictures(self.run, self.config, self.say)

    def say(self, text: str) -> None:
        """Print a line as it is."""
        say(self.console, text)


def fit(
    config: RunConfig | str | Path | Arrays,
    run_dir: str | Path | None = None,
    *,
    data: str | Path | Arrays | None = None,
    console: RichConsole | None = None,
    origin: Origin | None = None,
    observers: Sequence[Any] = (),
) -> Fit:
    """Train, select, test once. An unfinished run of the same configuration in the directory is resumed.

    A schedule of the recipe that does not fit into a shorter run is shortened in proportion, and a run whose length
    alone differs is continued from where it is (:mod:`resnet_jax.runs.length`); both are said.

    Arrays are divided into training, validation and test as any source is; a run of them is resumed with the same ones.

    Args:
        config: what to do; see :func:`resnet_jax.runs.recipes.load_recipe`. Or data alone, as ``data``: all else is
            then chosen for it (:func:`resnet_jax.runs.defaults.choose`), unless ``run_dir`` holds a run.
        run_dir: where to put it (default: :func:`resnet_jax.runs.directory.default_path`; of data alone
            :func:`resnet_jax.runs.auto.auto_path`).
        data: in place of ``data.source``: a path, or arrays ``(x, y)``, ``{"image": x, "label": y}`` or any that
            :func:`resnet_jax.data.load_arrays` takes.
        console: where to show progress (default: nowhere).
        origin: the recipe that ``config`` started from (default: the shipped one of that name).
        observers: training observers, besides those that ``train.observers`` names; see
            :class:`~resnet_jax.training.observers.Observer`. One that raises is said and left out.

    Returns:
        The finished run: its summary, history and network.

    Raises:
        UsageError: the configuration cannot be run.
        DataError: the images are not as they should be.
        RunError: training diverged, or the directory is another run's or not writable, or the weights to start from
            are not what they were.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
    """
    began = time.perf_counter()
    if jax.process_count() > 1:
        raise UsageError("fit runs in one process so far; with several, call the compiled steps from your own loop")
    console = console or RichConsole(quiet=True)
    begun = begin_fit(config, run_dir, data)
    config, run, dataset = begun.config, RunDirectory(begun.run_dir), begun.dataset
    for line in begun.lines:
        say(console, line)
    asked, origin = config, origin or Origin.of(config)
    if config.data.moved_to is not None and not run.config.is_file():
        raise UsageError(
            f"data.moved_to says where the images of a run under way lie now, and there is no run in {run.path}: name "
            "the images of a new one with data.source, or the run with run_dir"
        )
    settled = None
    if (steps_per_epoch := run.steps_per_epoch(asked.train.batch_size)) is not None:
        settled = settle(run, asked, origin, steps_per_epoch)
    source = find_source(config, run)
    images = None if dataset is None else images_of_arrays(config, run, dataset)
    if settled is not None and settled.change is None and (stored := run.read_summary()) is not None:
        return Fit(_finished_before(Summary.from_json(stored), run, settled.config, console))
    told = [*make_observers(config.train.observers), *observers]

    images = images or _images_of(config, run)
    settled = settled or settle(run, asked, origin, len(images.splits.train) // asked.train.batch_size)
    config, change = settled.config, settled.change
    parts = build_parts(config, images, Placement(make_mesh()))
    if source is not None:
        require_transfer(config, source, parts, images.card)
    require_memory(
        parts.model,
        images.card.image_shape,
        batch=config.train.batch_size,
        accumulate=config.train.accumulate,
        devices=parts.placement.devices,
        warn=_sayer(console),
    )
    run = RunDirectory.open(run.path, config if change is None else run.read_config())
    with run.locked(_sayer(console)), stop_on_signals() as stop, Checkpoints(run.checkpoints) as checkpoints:
        run.write_data(images.card)
        other_kind = misfit(config, images)
        notes = [*images.splits.notes, *([other_kind] if other_kind else [])]
        run.write_notes(notes)
        if source is not None:
            run.write_start(source.record())
        views = [View(_name(one), lambda one=one: one, _sayer(console)) for one in told]
        first, corrupt = _FirstStep(began), CorruptList(run.corrupt, images.unreadable, _sayer(console))
        job = _Job(config, images, parts, run, checkpoints, console, source, first, parts.make_feed(), corrupt)
        _announce(job, settled, notes)
        if change is not None:
            adopt(run, change, config)
        with contextlib.ExitStack() as stack:
            for view in views:
                stack.callback(view.close)
            with memory_told():
                state, progress = _restore(job)
                state, progress = _train(job, state, progress, stop, views)
            summary, result = _test(job, state, progress, began)
            try:  # first of all, while signals wait; what cannot be written is at least said
                run.write_summary(summary.to_json())
            finally:
                conclude(summary, job.say)
            tell(views, "on_end", summary.to_json())
    job.pictures.draw_all(result)
    job.pictures.say_where()
    job.say(f"params sha256 {summary.params_digest}")
    say_if_stuck(summary, job.say)
    return Fit(summary)


def _name(observer: Any) -> str:
    """Return what messages call an observer."""
    return type(observer).__name__


def _sayer(console: RichConsole) -> Callable[[str], None]:
    """Return what prints a line as it is."""
    return functools.partial(say, console)


def _finished_before(summary: Summary, run: RunDirectory, config: RunConfig, console: RichConsole) -> Summary:
    """Say that there is nothing to do; draw what is missing of the pictures."""
    tell = _sayer(console)
    tell(f"This run is finished; its result is in {run.summary}. Nothing was trained or tested again.")
    if config.train.depth_every is not None and not run.depth.is_file():
        tell("It kept no gradients through depth: to train again with them, give another run_dir.")
    Pictures(run, config, tell).draw_missing()
    say_if_stuck(summary, tell)
    return summary


def _images_of(config: RunConfig, run: RunDirectory) -> RunData:
    try:
        return load_images(config)
    except DataError as error:
        if run.config.is_file() and is_gone(config.data.place):
            raise DataError(
                f"{error}. If the images of the run in {run.path} lie elsewhere now, say where with data.moved_to"
            ) from error
        if "image_size" in str(error):  # of several sizes, which a recipe for images of one size does not bring to one
            raise DataError(f"{error}{elsewhere(config)}") from error
        raise


def _restore(job: _Job) -> tuple[TrainState, Progress]:
    if not job.checkpoints.steps("last"):
        if job.source is not None:
            return start_state(job.config, job.source, job.parts), Progress()
        return job.parts.new_state(), Progress()
    state, progress = restore(job.checkpoints, "last", job.parts.new_state())
    job.say(f"Resuming after step {int(state.step):,} of {job.parts.plan.total_steps:,}.")
    plan = job.parts.plan
    longer = progress.finished == "steps" and int(state.step) < plan.total_steps  # it was made longer since
    time_left = progress.finished == "time limit" and (plan.seconds is None or progress.elapsed < plan.seconds)
    if longer or time_left:
        progress = dataclasses.replace(progress, finished=None)
    return state, progress


def _train(
    job: _Job, state: TrainState, progress: Progress, stop: StopRequest, views: Sequence[View]
) -> tuple[TrainState, Progress]:
    parts, run = job.parts, job.run
    start, per_epoch = int(state.step), parts.plan.steps_per_epoch
    every = job.config.train.cadence(job.config.train.log_every, per_epoch)
    validation = job.images.splits.val

    def validate(state: TrainState) -> Evaluation:
        assert validation is not None
        return parts.evaluate(state.eval_variables, validation)

    def make_live() -> Console:
        return Console(
            total_steps=parts.plan.total_steps,
            steps_per_epoch=parts.plan.steps_per_epoch,
            start_step=start,
            batch_size=job.config.train.batch_size,
            console=job.console,
            headline=parts.task.headline,
        )

    with contextlib.ExitStack() as stack:
        metrics = MetricsFile(run.metrics, start_step=start, every=every, learning_rate=parts.learning_rate)
        depth = None
        if (depth_steps := job.config.train.depth_steps(per_epoch)) is not None:
            size = job.config.train.batch_size // job.config.train.accumulate
            chart = chart_blocks(parts.model, job.images.card.image_shape, size, BlockNames())
            depth = DepthFile(run.depth, chart.names, chart.stages, start_step=start, every=depth_steps)
            stack.callback(depth.close)
        live = View("progress", make_live, job.say)
        for observer in (live, metrics):
            stack.callback(observer.close)
        watches = []
        if has_chance(parts.task):
            after = warmup_steps(job.config.optim.schedule, parts.plan.steps_per_epoch, parts.plan.total_steps)
            chance = None if validation is None else Chance.of(validation.labels)
            watches.append(ChanceWatch(job.chance_in_training, chance, job.say, after=after))
        facts = RunFacts(
            name=run.path.name,
            run_dir=run.path,
            config=config_to_dict(job.config),
            start_step=start,
            total_steps=parts.plan.total_steps,
            steps_per_epoch=per_epoch,
            batch_size=job.config.train.batch_size,
            log_every=every,
        )
        tell(views, "on_start", facts)
        try:
            return train(
                state,
                plan=parts.plan,
                feed=job.feed,
                task=parts.task,
                evaluate=None if validation is None else validate,
                checkpoints=job.checkpoints,
                progress=progress,
                observers=[job.first_step, live, metrics, *watches, *([] if depth is None else [depth]), *views],
                stop=stop,
            )
        except (Interrupted, RunError):
            job.checkpoints.close()
            job.pictures.draw_training()
            raise


def _test(job: _Job, state: TrainState, progress: Progress, began: float) -> tuple[Summary, Evaluation]:
    """Return the result, and the evaluation that it is of."""
    steps, digest = int(state.step), params_digest(state.params, state.batch_stats)
    select, test = job.config.train.select, job.images.splits.test
    if select == "best":
        job.checkpoints.close()
        state, _ = job.checkpoints.restore("best", state)
    assert test is not None  # load_images refuses data without
    if before := earlier_tests(job.run):
        job.say(
            f"Testing the {select} state on the {len(test):,} test images. They were evaluated before, after "
            f"{', '.join(f'{n:,}' for n in before)} updates: a length chosen by that result was chosen on them."
        )
    else:
        job.say(f"Testing the {select} state, once, on the {len(test):,} test images; they decided nothing.")
    result = job.parts.evaluate(state.eval_variables, test)
    epochs = [row for row in read_metrics(job.run.metrics) if row["kind"] == "epoch"]
    task = job.parts.task
    verdict = judge(
        updates=steps,
        steps_per_epoch=job.parts.plan.steps_per_epoch,
        tested=result.metrics.get("accuracy"),
        test=Chance.of(test.labels),
        trained=epochs[-1].get("accuracy") if epochs else None,
        train=job.chance_in_training,
    )
    outcome = outcome_of(task, result, progress.members[0].watch.best, job.images.card.class_names)
    others = [line for line in job.corrupt.said(job.images.card.examples) if line not in result.notes]
    summary = Summary(
        **{**outcome, "notes": (*result.notes, *others)},
        steps=steps,
        finished=progress.finished or "steps",
        tested=f"{select}, after step {int(state.step)}",
        images_per_second=progress.images_per_second,
        seconds=time.perf_counter() - began,
        params_digest=digest,
        run_dir=str(job.run.path),
        first_step_seconds=job.first_step.seconds,
        stuck=verdict.stuck,
        stuck_reason=verdict.reason,
        skipped=job.corrupt.counts,
    )
    return summary, result


def _outputs(task: Task, names: Sequence[str]) -> str:
    """Say what the outputs are: ``10 classes``, ``regression of 2: weight, width``."""
    if task.kind == "classification":
        return f"{len(names)} classes"
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{task.kind} of {listed or task.num_outputs}"


def _announce(job: _Job, settled: Settled, notes: Sequence[str] = ()) -> None:
    config, plan = job.config, job.parts.plan
    devices = job.parts.placement.devices
    sizes = ", ".join(f"{count:,} {name}" for name, count in job.images.card.examples.items())
    shape = "x".join(str(side) for side in job.images.card.image_shape)
    per_call = job.feed.steps_per_call
    together = f", {per_call} in a call" if per_call > 1 else ""
    optimizer = f"{config.optim.name} {config.optim.learning_rate:g} {config.optim.schedule.kind}"
    facts = {
        "network": f"{config.model.name}, {_outputs(job.parts.task, job.images.card.class_names)}",
        "images": f"{config.data.place}: {sizes} ({shape})",
        "fed": job.parts.fed,
        "training": f"{plan.total_steps:,} steps of {config.train.batch_size} images{together}, {optimizer}",
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "run": str(job.run.path),
    }
    start = () if job.source is None else describe(config, job.source, job.parts, job.images.card)
    lines = (*(("start", line) for line in start), *(("adapted", line) for line in settled.adapted))
    for name, fact in (*facts.items(), *lines):
        job.say(f"{name:>9}  {fact}")
    for note in notes:
        job.say(f"{'note':>9}  {note}")
    for line in settled.change.lines(config) if settled.change is not None else ():
        job.say(line)
