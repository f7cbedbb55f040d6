"""Test whether a network can memorize a few batches: the same ones over and over, without regularization.

This is PyTorch Lightning's ``overfit_batches``: the training images are also those that are evaluated, and their loss
should fall towards 0. A network that cannot do this has a defect that more data will not fix.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole

from resnet_jax.data.records import Subset
from resnet_jax.data.rng import SHUFFLE, permutation
from resnet_jax.errors import CheckError, UsageError
from resnet_jax.report.console import Console
from resnet_jax.report.metrics_file import MetricsFile, read_metrics
from resnet_jax.report.plots import plot_curves
from resnet_jax.report.text import say
from resnet_jax.report.views import attempt
from resnet_jax.runs.build import RunComponents, build_parts
from resnet_jax.runs.config import RunConfig, config_to_dict
from resnet_jax.runs.data import RunData, load_images
from resnet_jax.runs.directory import default_path
from resnet_jax.runs.job import sayer
from resnet_jax.runs.length import Origin, fit_length
from resnet_jax.runtime.files import write_whole
from resnet_jax.tasks.task import format_metric
from resnet_jax.training.cadence import Cadence
from resnet_jax.training.early_stopping import EarlyStopping
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.interrupt import stop_on_signals
from resnet_jax.training.loop import train
from resnet_jax.training.observers import Observer, Row
from resnet_jax.training.options import Averaging
from resnet_jax.training.spikes import Spikes

#: The maximum number of updates, unless a length is given.
STEPS = 400
#: Number of evaluations on the way.
LOOKS = 20
#: The loss that a task without accuracy must reach, as a fraction of the first.
LOW = 0.05
#: Name of the result file, which distinguishes such a directory from a run.
RESULT = "overfit.json"

DOUBTS = (
    "It cannot memorize them, so more data would not help. Look at: the learning rate (resnet-jax lr-range), "
    "the number of updates (train.length), labels that do not belong to their images (resnet-jax data show), the "
    "normalization (data.mean, data.std), and whether gradients get through (resnet-jax depth check NETWORK)"
)


def overfit(
    config: RunConfig,
    batches: int,
    run_dir: str | Path | None = None,
    *,
    length: str | None = None,
    console: RichConsole | None = None,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Train on the same few batches, report whether they were learned, write overfit.json, metrics.jsonl, curves.png.

    Args:
        config: the run.
        batches: number of batches.
        run_dir: output directory (default: ``runs/overfit-N-`` followed by the name of the run).
        length: length of the training (default: 400 updates). It ends earlier once everything is learned.
        console: where to show progress.
        origin: the recipe that ``config`` started from.

    Returns:
        ``passed``, ``said``, ``batches``, ``examples``, ``steps``, ``first_loss``, ``loss`` and ``metrics`` on these
        images, ``run_dir``.

    Raises:
        CheckError: if they were not learned; with the same result.
        UsageError: if there are too few images, or the directory contains a run.
    """
    if batches < 1:
        raise UsageError(f"overfit_batches is 1 or more batches, got {batches}")
    console = RichConsole(quiet=True) if console is None else console
    path = _directory(config, batches, run_dir)
    plain, off = without_regularization(config)
    images = same_batches(load_images(plain), plain.train.batch_size, batches, plain.seed)
    plain = _of_length(plain, length or f"{STEPS} steps")
    plain, adapted = fit_length(plain, origin or Origin.of(config), batches)
    parts = build_parts(plain, images, plain.train.placed())
    count = len(images.splits.train)
    several = f"{batches} batches of " if batches > 1 else "a batch of "
    say(
        console,
        f"The same {count:,} images, {several}{plain.train.batch_size}, over and over, for at most "
        f"{parts.plan.total_steps:,} updates; off: {', '.join(off)}.",
    )
    for line in adapted:
        say(console, line)
    path.mkdir(parents=True, exist_ok=True)
    (path / "metrics.jsonl").unlink(missing_ok=True)
    watch, result = _train(parts, images, plain, path, console)
    task = parts.task
    title = f"Learning curves: {plain.model.name} trained on the same {count:,} images over and over"
    attempt(
        "curves.png",
        lambda: plot_curves(
            read_metrics(path / "metrics.jsonl"),
            path / "curves.png",
            title=title,
            headline=task.headline,
            mode=task.mode,
        ),
        sayer(console),
    )
    passed, said = verdict(result, watch.first, watch.rows[-1].get("accuracy"), count)
    found = {
        "passed": passed,
        "said": said,
        "batches": batches,
        "examples": count,
        "steps": watch.step,
        "first_loss": watch.first,
        "loss": result.loss,
        "metrics": {name: value if math.isfinite(value) else None for name, value in result.metrics.items()},
        "run_dir": str(path),
    }
    write_whole(path / RESULT, json.dumps({**found, "config": config_to_dict(plain)}, indent=1) + "\n")
    if not passed:
        raise CheckError(said, found)
    say(console, said)
    say(console, f"all files in {path}")
    return found


def without_regularization(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """Return a run without augmentation, dropout, smoothing, averages and early stopping, and what was turned off."""
    data, task, network = config.data, config.task, config.model.config()
    drops = [name for name in ("dropout", "head_dropout", "drop_path") if getattr(network, name)]
    changed = {
        "augmentation": bool(data.augment),
        **{name.replace("_", " "): True for name in drops},
        "label smoothing": bool(task.label_smoothing),
        "averages": config.train.averaging() is not None,
    }
    none: dict[str, Any] = dict.fromkeys(drops, 0.0)
    plain = dataclasses.replace(
        config,
        model=config.model.replace(**none) if none else config.model,
        data=dataclasses.replace(data, augment=(), repeats=1, sizes=(), balance="none"),
        task=dataclasses.replace(task, label_smoothing=0.0),
        train=dataclasses.replace(
            config.train,
            limit=None,
            ema=Averaging(),
            early_stopping=EarlyStopping(),
            spikes=Spikes(),
            select="last",
            depth_every=None,
        ),
    )
    return plain, [name for name, was in changed.items() if was] or ["nothing, none was on"]


def same_batches(images: RunData, size: int, batches: int, seed: int) -> RunData:
    """Return the data with only this many training images, which are also those that are evaluated.

    Raises:
        UsageError: if there are too few.
    """
    records, wanted = images.splits.train, size * batches
    if len(records) < wanted:
        raise UsageError(
            f"overfit_batches {batches}: {batches} batches of {size} are {wanted:,} images, and there are "
            f"{len(records):,} to train on; lower it or train.batch_size"
        )
    few = Subset(records, permutation(len(records), seed, SHUFFLE)[:wanted])
    return dataclasses.replace(images, splits=dataclasses.replace(images.splits, train=few, val=few, test=few))


def verdict(result: Evaluation, first: float, training: float | None, count: int) -> tuple[bool, str]:
    """Return whether the images were learned, and a sentence about it.

    Args:
        result: result on the training images, in evaluation mode.
        first: loss of the first update.
        training: accuracy in training mode at the end; None for a task without accuracy.
        count: number of images.
    """
    accuracy = result.metrics.get("accuracy")
    fell = f"loss {first:.4f} -> {result.loss:.4f}"
    if accuracy is None:
        passed = result.loss <= LOW * first
        goal = f"{LOW:.0%} of the first loss {'' if passed else 'NOT '}reached"
    else:
        passed = accuracy == 1.0
        goal = f"accuracy {format_metric('accuracy', accuracy)}, 100% {'' if passed else 'NOT '}reached"
    said = f"overfit check {'passed' if passed else 'FAILED'}: on the {count:,} images trained on, {fell}; {goal}. "
    if passed:
        return True, said + "Network, loss and labels go together, and it can learn; of other images this says nothing."
    if training == 1.0:
        return False, said + (
            "In training mode it knows all of them, in evaluation mode not: its running batch statistics are not those "
            "of these images yet. Give it more updates (train.length) or a lower model.norm_momentum"
        )
    return False, said + DOUBTS


class _LearnedError(Exception):
    """All images are learned: raised by the observer to end the training."""


class _Watch(Observer):
    """Observer that records the rows of epochs, and ends the training once all images are learned."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.step, self.first = 0, math.nan

    def on_step(self, row: Row) -> None:
        """Record the first loss."""
        if int(row["step"]) == 1:
            self.first = row["loss"]

    def on_epoch(self, row: Row) -> None:
        """Record the row.

        Raises:
            _LearnedError: if the accuracy is 100% and the loss a twentieth of the first.
        """
        self.rows.append(row)
        self.step = int(row["step"])
        if row.get("val_loss", math.inf) <= LOW * self.first and row.get("val_accuracy", 1.0) == 1.0:
            raise _LearnedError


def _train(
    parts: RunComponents, images: RunData, config: RunConfig, path: Path, console: RichConsole
) -> tuple[_Watch, Evaluation]:
    """Return what was recorded, and the last evaluation of the training images."""
    total, watch, found = parts.plan.total_steps, _Watch(), []

    def evaluate(state: Any) -> Evaluation:
        found.append(parts.evaluate(state.eval_variables, images.splits.train))
        return found[-1]

    every = max(total // LOOKS // parts.plan.steps_per_epoch, 1) * parts.plan.steps_per_epoch
    with contextlib.ExitStack() as stack, stop_on_signals() as stop:
        file = MetricsFile(path / "metrics.jsonl", start_step=0, every=1, learning_rate=parts.learning_rate)
        live = Console(
            total_steps=total,
            steps_per_epoch=every,
            start_step=0,
            batch_size=config.train.batch_size,
            console=console,
            headline=parts.task.headline,
        )
        stack.callback(file.close)
        stack.callback(live.close)
        with contextlib.suppress(_LearnedError):
            train(
                parts.new_state(),
                plan=dataclasses.replace(parts.plan, steps_per_epoch=every, validate=Cadence(period=every)),
                feed=parts.make_feed(),
                task=parts.task,
                evaluate=evaluate,
                observers=[live, file, watch],
                stop=stop,
            )
    return watch, found[-1]


def _of_length(config: RunConfig, length: str) -> RunConfig:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, length=length))


def _directory(config: RunConfig, batches: int, run_dir: str | Path | None) -> Path:
    """Return the output directory.

    Raises:
        UsageError: if it contains something else.
    """
    usual = default_path(config)
    path = usual.with_name(f"overfit-{batches}-{usual.name}") if run_dir is None else Path(run_dir)
    if path.exists() and not (path / RESULT).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(
            f"{path} holds something else, perhaps a run, and overfit_batches writes into a directory of its own: give "
            "another run_dir"
        )
    return path
