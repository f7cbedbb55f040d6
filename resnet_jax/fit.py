"""``fit``: from a configuration to a trained network and its run directory, resumed where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole

from resnet_jax.assemble import Images, Parts, build_parts, load_images
from resnet_jax.config import RunConfig, require_same
from resnet_jax.digest import params_digest
from resnet_jax.errors import RunError
from resnet_jax.report.console import Console
from resnet_jax.report.metrics_file import MetricsFile, read_metrics
from resnet_jax.report.plots import plot_confusion, plot_curves
from resnet_jax.report.tensorboard import TensorBoard
from resnet_jax.rundir import RunDirectory, default_path
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.interrupt import StopRequest, stop_on_signals
from resnet_jax.training.loop import Interrupted, train
from resnet_jax.training.mesh import make_mesh
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


def fit(config: RunConfig, run_dir: str | Path | None = None, *, console: RichConsole | None = None) -> Summary:
    """Train, select, test once. In the directory of an unfinished run of the same configuration, go on with it.

    Args:
        config: what to do; see :func:`resnet_jax.config.load_recipe`.
        run_dir: where to put it (default: :func:`resnet_jax.rundir.default_path`).
        console: where to show progress (default: nowhere).

    Raises:
        UsageError: the configuration cannot be run.
        DataError: the images are not as they should be.
        RunError: training diverged, or the directory is another run's or not writable.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
    """
    began = time.perf_counter()
    console = console or RichConsole(quiet=True)
    directory = Path(run_dir) if run_dir is not None else default_path(config)
    run = RunDirectory(directory)
    if run.config.is_file():
        require_same(run.read_config(), config, where=directory)
        if (stored := run.read_summary()) is not None:
            console.print(f"This run is finished; its result is in {run.summary}. Nothing was trained or tested again.")
            return Summary(**stored)

    images = load_images(config)
    mesh = make_mesh()
    parts = build_parts(config, images, mesh)
    run = RunDirectory.open(directory, config)
    run.write_data(images.card)
    _announce(console, config, images, parts, run)
    with stop_on_signals() as stop, Checkpoints(run.checkpoints) as checkpoints:
        state, progress = _restore(parts, checkpoints, console)
        state, progress = _train(config, images, parts, run, checkpoints, state, progress, stop, console)
        checkpoints.close()
        return _finish(config, images, parts, run, checkpoints, state, progress, began, console)


def _restore(parts: Parts, checkpoints: Checkpoints, console: RichConsole) -> tuple[TrainState, Progress]:
    state = parts.new_state()
    if not checkpoints.steps("last"):
        return state, Progress()
    state, saved = checkpoints.restore("last", state)
    console.print(f"Resuming after step {int(state.step):,} of {parts.plan.total_steps:,}.")
    return state, Progress.from_json(saved)


def _train(
    config: RunConfig,
    images: Images,
    parts: Parts,
    run: RunDirectory,
    checkpoints: Checkpoints,
    state: TrainState,
    progress: Progress,
    stop: StopRequest,
    console: RichConsole,
) -> tuple[TrainState, Progress]:
    start, every = int(state.step), config.train.log_every
    validation = images.splits.val
    with contextlib.ExitStack() as stack:
        live = Console(
            total_steps=parts.plan.total_steps,
            steps_per_epoch=parts.plan.steps_per_epoch,
            start_step=start,
            batch_size=config.train.batch_size,
            console=console,
        )
        metrics = MetricsFile(run.metrics, start_step=start, every=every, learning_rate=parts.learning_rate)
        events = TensorBoard(run.tensorboard, start_step=start, every=every)
        for observer in (live, metrics, events):
            stack.callback(observer.close)
        try:
            return train(
                state,
                plan=parts.plan,
                train_step=parts.train_step,
                batches=parts.batches,
                mesh=parts.mesh,
                evaluate=None if validation is None else lambda state: parts.evaluate(state.eval_variables, validation),
                checkpoints=checkpoints,
                progress=progress,
                observers=(live, metrics, events),
                stop=stop,
            )
        except (Interrupted, RunError):
            checkpoints.close()
            plot_curves(read_metrics(run.metrics), run.curves, title=_title(config))
            raise


def _finish(
    config: RunConfig,
    images: Images,
    parts: Parts,
    run: RunDirectory,
    checkpoints: Checkpoints,
    state: TrainState,
    progress: Progress,
    began: float,
    console: RichConsole,
) -> Summary:
    steps, digest = int(state.step), params_digest(state.params, state.batch_stats)
    if config.train.select == "best":
        state, _ = checkpoints.restore("best", state)
    test = images.splits.test
    assert test is not None  # load_images refuses data without
    examples = images.card.examples["test"]
    console.print(
        f"Testing the {config.train.select} state, once, on the {examples:,} test images, which decided nothing so far.",
        soft_wrap=True,
    )
    result = parts.evaluate(state.eval_variables, test)
    summary = Summary(
        test_accuracy=result.accuracy,
        test_correct=result.correct,
        test_examples=result.examples,
        test_loss=result.loss,
        best_val_accuracy=progress.watch.best,
        steps=steps,
        finished=progress.finished or "steps",
        tested=f"{config.train.select}, after step {int(state.step)}",
        images_per_second=progress.images_per_second,
        seconds=time.perf_counter() - began,
        params_digest=digest,
        run_dir=str(run.path),
    )
    title = _title(config)
    plot_curves(read_metrics(run.metrics), run.curves, title=title)
    plot_confusion(
        result.confusion,
        images.card.class_names,
        run.confusion,
        title=f"{title}: {result.correct} of {result.examples} test images",
    )
    run.write_summary(dataclasses.asdict(summary))
    _conclude(console, summary, run)
    return summary


def _announce(console: RichConsole, config: RunConfig, images: Images, parts: Parts, run: RunDirectory) -> None:
    device, count = parts.mesh.devices.flat[0], parts.mesh.size
    sizes = ", ".join(f"{count:,} {name}" for name, count in images.card.examples.items())
    shape = "x".join(str(side) for side in images.card.image_shape)
    facts: dict[str, Any] = {
        "network": f"{config.model.name}, {len(images.card.class_names)} classes",
        "images": f"{config.data.source}: {sizes} ({shape})",
        "training": f"{parts.plan.total_steps:,} steps of {config.train.batch_size} images, "
        f"{config.optim.name} {config.optim.learning_rate:g} {config.optim.schedule.kind}",
        "devices": f"{count} x {device.device_kind}",
        "run": str(run.path),
    }
    for name, fact in facts.items():
        console.print(f"{name:>9}  {fact}", highlight=False, soft_wrap=True)


def _conclude(console: RichConsole, summary: Summary, run: RunDirectory) -> None:
    best = summary.best_val_accuracy
    rate = summary.images_per_second
    lines = [
        f"test accuracy {summary.test_accuracy:.2%} ({summary.test_correct} of {summary.test_examples})",
        *([] if best is None else [f"best validation accuracy {best:.2%}"]),
        f"{summary.steps:,} steps in {summary.seconds:.0f} s"
        + (f", {rate:,.0f} images/s while training" if rate else ""),
        f"curves {run.curves}",
        f"confusion {run.confusion}",
        f"params sha256 {summary.params_digest[:16]}...",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _title(config: RunConfig) -> str:
    return f"{config.model.name} on {config.data.source.split('/')[-1]}, {config.recipe}, seed {config.seed}"
