"""``fit``: from a configuration to a trained network and its run directory, resumed where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console as RichConsole

from resnet_jax.assemble import Parts, build_parts
from resnet_jax.config import RunConfig, require_same
from resnet_jax.data.source import is_gone
from resnet_jax.digest import params_digest
from resnet_jax.errors import DataError, RunError, UsageError
from resnet_jax.finetune import Source, describe, find_source, require_transfer, start_state
from resnet_jax.images import Images, load_images
from resnet_jax.models.instrument import Anatomy
from resnet_jax.recipe_fit import misfit
from resnet_jax.report.console import Console
from resnet_jax.report.depth_file import DepthFile, draw_history, read_depth
from resnet_jax.report.metrics_file import MetricsFile, read_metrics
from resnet_jax.report.plots import plot_confusion, plot_curves
from resnet_jax.report.tensorboard import TensorBoard
from resnet_jax.rundir import RunDirectory, default_path
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.evaluate import Evaluation
from resnet_jax.training.interrupt import StopRequest, stop_on_signals
from resnet_jax.training.loop import Interrupted, train
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.probing import chart_blocks
from resnet_jax.training.progress import Progress
from resnet_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Summary:
    """The result of a run.

    Attributes:
        test_accuracy: fraction correct on the test split, which is read once, after training.
        test_correct: images of it classified correctly.
        test_examples: images of it.
        test_loss: mean loss on it.
        best_val_accuracy: best validation accuracy of the run; None without validation.
        steps: updates done.
        finished: ``steps`` (all of them) or ``early stopping``.
        tested: which state was tested, ``last`` or ``best``, and after which step.
        images_per_second: training throughput, compilation and evaluation left out.
        seconds: wall-clock time of the command that finished the run.
        params_digest: see :func:`resnet_jax.digest.params_digest`; of the last state.
        run_dir: where everything is.
        first_step_seconds: from the start of that command, its imports left out, until its first step was done:
            reading the images and compiling, or finding the compiled step in the cache. None if no step was left.
    """

    test_accuracy: float
    test_correct: int
    test_examples: int
    test_loss: float
    best_val_accuracy: float | None
    steps: int
    finished: str
    tested: str
    images_per_second: float | None
    seconds: float
    params_digest: str
    run_dir: str
    first_step_seconds: float | None = None


class _FirstStep:
    """Observer of the time to the first step."""

    def __init__(self, began: float):
        self._began = began
        self.seconds: float | None = None

    def on_step(self, row: dict[str, float]) -> None:
        """Stop the watch, once."""
        if self.seconds is None:
            self.seconds = time.perf_counter() - self._began

    def on_epoch(self, row: dict[str, float]) -> None:
        """Nothing."""


@dataclasses.dataclass(frozen=True)
class _Job:
    """What the stages of :func:`fit` share."""

    config: RunConfig
    images: Images
    parts: Parts
    run: RunDirectory
    checkpoints: Checkpoints
    console: RichConsole
    source: Source | None
    first_step: _FirstStep

    @property
    def title(self) -> str:
        """Headline of the pictures."""
        source = self.config.data.source.split("/")[-1]
        return f"{self.config.model.name} on {source} (recipe {self.config.recipe}, seed {self.config.seed})"

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def draw_curves(self) -> None:
        """Draw curves.png from metrics.jsonl and, where the run has one, depth.png from depth.jsonl."""
        plot_curves(read_metrics(self.run.metrics), self.run.curves, title=self.title)
        if self.run.depth.is_file() and len((history := read_depth(self.run.depth)).steps):
            draw_history(history, self.run.gradients, title=self.title)


def fit(config: RunConfig, run_dir: str | Path | None = None, *, console: RichConsole | None = None) -> Summary:
    """Train, select, test once. In the directory of an unfinished run of the same configuration, go on with it.

    Args:
        config: what to do; see :func:`resnet_jax.config.load_recipe`.
        run_dir: where to put it (default: :func:`resnet_jax.rundir.default_path`).
        console: where to show progress (default: nowhere).

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
    directory = Path(run_dir) if run_dir is not None else default_path(config)
    run = RunDirectory(directory)
    if run.config.is_file():
        require_same(run.read_config(), config, where=directory)
    elif config.data.moved_to is not None:
        raise UsageError(
            f"data.moved_to says where the images of a run under way lie now, and there is no run in {directory}: name "
            "the images of a new one with data.source, or the run with --run-dir"
        )
    source = find_source(config, run)
    if run.config.is_file() and (stored := run.read_summary()) is not None:
        console.print(f"This run is finished; its result is in {run.summary}. Nothing was trained or tested again.")
        if config.train.depth_every and not run.depth.is_file():
            console.print("It kept no gradients through depth: to train again with them, give another --run-dir.")
        return Summary(**stored)

    images = _images_of(config, run)
    parts = build_parts(config, images, make_mesh())
    if source is not None:
        require_transfer(config, source, parts, images.card)
    run = RunDirectory.open(directory, config)
    with run.locked(), stop_on_signals() as stop, Checkpoints(run.checkpoints) as checkpoints:
        run.write_data(images.card)
        other_kind = misfit(config, images)
        notes = [*images.splits.notes, *([other_kind] if other_kind else [])]
        run.write_notes(notes)
        if source is not None:
            run.write_start(source.record())
        job = _Job(config, images, parts, run, checkpoints, console, source, _FirstStep(began))
        _announce(job, notes)
        state, progress = _restore(job)
        state, progress = _train(job, state, progress, stop)
        summary = _test(job, state, progress, began)
    run.write_summary(dataclasses.asdict(summary))
    _conclude(job, summary)
    return summary


def _images_of(config: RunConfig, run: RunDirectory) -> Images:
    try:
        return load_images(config)
    except DataError as error:
        if run.config.is_file() and is_gone(config.data.place):
            raise DataError(
                f"{error}. If the images of the run in {run.path} lie elsewhere now, say where with --data.moved-to"
            ) from error
        raise


def _restore(job: _Job) -> tuple[TrainState, Progress]:
    if not job.checkpoints.steps("last"):
        if job.source is not None:
            return start_state(job.config, job.source, job.parts), Progress()
        return job.parts.new_state(), Progress()
    state, saved = job.checkpoints.restore("last", job.parts.new_state())
    job.say(f"Resuming after step {int(state.step):,} of {job.parts.plan.total_steps:,}.")
    return state, Progress.from_json(saved)


def _train(job: _Job, state: TrainState, progress: Progress, stop: StopRequest) -> tuple[TrainState, Progress]:
    parts, run = job.parts, job.run
    start, every = int(state.step), job.config.train.log_every
    validation = job.images.splits.val

    def validate(state: TrainState) -> Evaluation:
        assert validation is not None
        return parts.evaluate(state.eval_variables, validation)

    with contextlib.ExitStack() as stack:
        live = Console(
            total_steps=parts.plan.total_steps,
            steps_per_epoch=parts.plan.steps_per_epoch,
            start_step=start,
            batch_size=job.config.train.batch_size,
            console=job.console,
        )
        metrics = MetricsFile(run.metrics, start_step=start, every=every, learning_rate=parts.learning_rate)
        events = TensorBoard(run.tensorboard, start_step=start, every=every)
        depth = None
        if job.config.train.depth_every:
            size = job.config.train.batch_size // job.config.train.accumulate
            chart = chart_blocks(parts.model, job.images.card.image_shape, size, Anatomy())
            depth = DepthFile(
                run.depth, chart.names, chart.stages, start_step=start, every=job.config.train.depth_every
            )
            stack.callback(depth.close)
        for observer in (live, metrics, events):
            stack.callback(observer.close)
        try:
            return train(
                state,
                plan=parts.plan,
                train_step=parts.train_step,
                batches=parts.batches,
                evaluate=None if validation is None else validate,
                checkpoints=job.checkpoints,
                progress=progress,
                observers=(job.first_step, live, metrics, events),
                stop=stop,
                on_blocks=None if depth is None else depth.on_blocks,
            )
        except (Interrupted, RunError):
            job.checkpoints.close()
            job.draw_curves()
            raise


def _test(job: _Job, state: TrainState, progress: Progress, began: float) -> Summary:
    steps, digest = int(state.step), params_digest(state.params, state.batch_stats)
    select, test = job.config.train.select, job.images.splits.test
    if select == "best":
        job.checkpoints.close()
        state, _ = job.checkpoints.restore("best", state)
    assert test is not None  # load_images refuses data without
    job.say(f"Testing the {select} state, once, on the {len(test):,} test images; they decided nothing.")
    result = job.parts.evaluate(state.eval_variables, test)
    summary = Summary(
        test_accuracy=result.accuracy,
        test_correct=result.correct,
        test_examples=result.examples,
        test_loss=result.loss,
        best_val_accuracy=progress.watch.best,
        steps=steps,
        finished=progress.finished or "steps",
        tested=f"{select}, after step {int(state.step)}",
        images_per_second=progress.images_per_second,
        seconds=time.perf_counter() - began,
        params_digest=digest,
        run_dir=str(job.run.path),
        first_step_seconds=job.first_step.seconds,
    )
    job.draw_curves()
    title = f"{job.title}: {result.correct} of {result.examples} test images"
    known = len(job.images.card.class_names)
    names = [*job.images.card.class_names, *(f"output {index}" for index in range(known, len(result.confusion)))]
    plot_confusion(result.confusion, names, job.run.confusion, title=title)
    return summary


def _announce(job: _Job, notes: Sequence[str] = ()) -> None:
    config, plan = job.config, job.parts.plan
    devices = job.parts.mesh.devices
    sizes = ", ".join(f"{count:,} {name}" for name, count in job.images.card.examples.items())
    shape = "x".join(str(side) for side in job.images.card.image_shape)
    together = f", {plan.steps_per_call} in a call" if plan.steps_per_call > 1 else ""
    optimizer = f"{config.optim.name} {config.optim.learning_rate:g} {config.optim.schedule.kind}"
    facts = {
        "network": f"{config.model.name}, {len(job.images.card.class_names)} classes",
        "images": f"{config.data.place}: {sizes} ({shape})",
        "training": f"{plan.total_steps:,} steps of {config.train.batch_size} images{together}, {optimizer}",
        "devices": f"{devices.size} x {devices.flat[0].device_kind}",
        "run": str(job.run.path),
    }
    if job.source is not None:
        facts["start"] = describe(config, job.source, job.parts)
    for name, fact in facts.items():
        job.say(f"{name:>9}  {fact}")
    for note in notes:
        job.say(f"{'note':>9}  {note}")


def _conclude(job: _Job, summary: Summary) -> None:
    best, rate = summary.best_val_accuracy, summary.images_per_second
    job.say(f"test accuracy {summary.test_accuracy:.2%} ({summary.test_correct} of {summary.test_examples})")
    if best is not None:
        job.say(f"best validation accuracy {best:.2%}")
    speed = f", {rate:,.0f} images/s while training" if rate else ""
    first = summary.first_step_seconds
    start = "" if first is None else f", the first done after {first:.1f} s"
    job.say(f"{summary.steps:,} steps in {summary.seconds:.0f} s{start}{speed}")
    job.say(f"curves {job.run.curves}")
    job.say(f"confusion {job.run.confusion}")
    if job.run.gradients.is_file():
        job.say(f"gradients through depth {job.run.gradients}")
    job.say(f"params sha256 {summary.params_digest}")
