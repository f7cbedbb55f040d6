"""The outcome of a run: its summary, the lines that report it, and its figures, whose failure is only a warning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.classes import output_names
from resnet_jax.depth.arrays import open_arrays
from resnet_jax.errors import DamagedError, RunError
from resnet_jax.report.depth_file import draw_history, read_depth
from resnet_jax.report.example_pairs import draw_pairs
from resnet_jax.report.metrics_file import read_metrics
from resnet_jax.report.plots import plot_confusion, plot_curves
from resnet_jax.report.prediction_plots import plot_test_rows
from resnet_jax.report.retrieval import SIMILARITY, draw_retrieval
from resnet_jax.report.task_gradients import draw_task_gradients, read_task_gradients
from resnet_jax.report.task_plots import plot_task_rows
from resnet_jax.report.views import attempt
from resnet_jax.runs.build import build_task
from resnet_jax.runs.config import OtherConfig, RunConfig
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runtime.paths import source_name
from resnet_jax.tasks.confusion import Confusion
from resnet_jax.tasks.multitask import Multitask
from resnet_jax.tasks.task import Task, format_metric
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.stuck import ADVICE

Say = Callable[[str], None]

#: Among the details of a test: arrays of :func:`resnet_jax.runs.shown_examples.predicted_examples`.
EXAMPLES = "examples"
#: Kinds of tasks whose test has a figure.
_DRAWN = ("classification", "binary", "multilabel", "regression", "segmentation")


#: Rows of one of several tasks that are stored for a test.
KEPT = ("label", "prediction", "score", "there")


@dataclasses.dataclass(frozen=True)
class Summary:
    """The result of a run.

    Attributes:
        test_accuracy: fraction correct on the test split, which is read once, after training; None for a task without
            accuracy.
        test_correct: number of test images classified correctly; None for a task without accuracy.
        test_examples: number of test images.
        test_loss: mean loss on the test split.
        best_val_accuracy: best validation accuracy of the run; None without validation, or for a task without accuracy.
        steps: number of updates done.
        finished: ``steps`` (all of them), ``early stopping`` or ``time limit``.
        tested: which state was tested, ``last`` or ``best``, and after which step.
        images_per_second: training throughput, excluding compilation and evaluation.
        seconds: wall-clock time of the command that finished the run.
        params_digest: see :func:`resnet_jax.models.digest.params_digest`; for the last state.
        run_dir: the run directory.
        first_step_seconds: time from the start of that command, excluding imports, until its first step was done:
            reading the images and compiling, or finding the compiled step in the cache. None if no step was left.
        stuck: whether it ended no better than chance (:mod:`resnet_jax.training.stuck`); None if that cannot be
            determined.
        stuck_reason: why it is stuck, or why that cannot be determined; None for a run that has learned.
        task: what the outputs mean, such as ``classification``.
        headline: the metric used for selection and early stopping, such as ``accuracy``.
        metrics: all test metrics; None for one that is not a number. Empty in older results.
        best_val: best validation value of the headline metric; None without validation.
        per_class: metrics of every class, label or target, by metric and name.
        notes: what a reader of the metrics needs to know.
        skipped: split -> number of unreadable examples that were skipped (``data.on_corrupt skip``); only splits that
            had any.
    """

    test_accuracy: float | None
    test_correct: int | None
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
    stuck: bool | None = None
    stuck_reason: str | None = None
    task: str = "classification"
    headline: str = "accuracy"
    metrics: dict[str, float | None] = dataclasses.field(default_factory=dict)
    best_val: float | None = None
    per_class: dict[str, dict[str, float | None]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def test_headline(self) -> float | None:
        """The headline metric on the test split."""
        return self.metrics.get(self.headline, self.test_accuracy)

    def to_json(self) -> dict[str, Any]:
        """Return the contents of summary.json; for a task without accuracy, its headline metric takes that place."""
        row = {name: value for name, value in dataclasses.asdict(self).items() if name != "best_val"}
        row["notes"] = list(self.notes)
        if self.headline == "accuracy":
            return row
        for name in ("test_accuracy", "test_correct", "best_val_accuracy"):
            del row[name]
        return {f"test_{self.headline}": self.test_headline, f"best_val_{self.headline}": self.best_val, **row}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Summary:
        """Invert :meth:`to_json`."""
        headline = stored.get("headline", "accuracy")
        known = {field.name for field in dataclasses.fields(cls)}
        row: dict[str, Any] = {"test_accuracy": None, "test_correct": None, "best_val_accuracy": None}
        row |= {name: value for name, value in stored.items() if name in known}
        row["notes"] = tuple(row.get("notes", ()))
        return cls(**{**row, "best_val": stored.get(f"best_val_{headline}")})


def outcome_of(task: Task, result: Evaluation, best: float | None, names: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a summary that contain the test result.

    Args:
        task: what the outputs mean.
        result: result of the test.
        best: best validation value of the headline metric.
        names: names of the classes, labels or targets.
    """
    has_accuracy = task.headline == "accuracy"
    return {
        "test_accuracy": result.accuracy if has_accuracy else None,
        "test_correct": result.correct if has_accuracy and "correct" in result.sums else None,
        "test_examples": result.examples,
        "test_loss": result.loss,
        "best_val_accuracy": best if has_accuracy else None,
        "task": task.kind,
        "headline": task.headline,
        "metrics": {name: finite(value) for name, value in result.metrics.items()},
        "best_val": best,
        "per_class": per_class_of(result, names),
        "notes": result.notes,
    }


def per_class_of(result: Evaluation, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return the metrics of every class, label or target, by metric and name; None for NaN."""
    return {
        table: {name: finite(value) for name, value in zip(output_names(names, len(each)), each, strict=False)}
        for table, each in result.details.items()
        if isinstance(each, np.ndarray) and each.ndim == 1
    }


def finite(value: float) -> float | None:
    """Return the number, or None (JSON has no NaN) if it is not finite."""
    return float(value) if math.isfinite(value) else None


def said_metric(name: str, value: float | None) -> str:
    """Return a metric in readable form.

    >>> said_metric("macro_f1", 0.5), said_metric("r2", None)
    ('macro f1 50.00%', 'r2 undefined')
    """
    return (
        f"{name.replace('_', ' ')} {'undefined' if value is None or math.isnan(value) else format_metric(name, value)}"
    )


def conclude(summary: Summary, say: Say) -> None:
    """Print the outcome."""
    best, rate = summary.best_val, summary.images_per_second
    best = summary.best_val_accuracy if best is None else best
    counted = f"{summary.test_examples} images"
    if summary.test_correct is not None:
        counted = f"{summary.test_correct} of {summary.test_examples}"
    say(f"test {said_metric(summary.headline, summary.test_headline)} ({counted})")
    others = [said_metric(name, value) for name, value in summary.metrics.items() if name != summary.headline]
    if others:
        say(f"test {', '.join(others)}")
    for note in summary.notes:
        say(note)
    if best is not None:
        say(f"best validation {said_metric(summary.headline, best)}")
    speed = f", {rate:,.0f} images/s while training" if rate else ""
    first = summary.first_step_seconds
    start = "" if first is None else f", the first after {first:.1f} s"
    say(f"{summary.steps:,} steps in {summary.seconds:.0f} s{start}{speed}")


def say_if_stuck(summary: Summary, say: Say) -> None:
    """Print that the run is stuck, if it is."""
    if summary.stuck:
        say(f"This run is stuck: {summary.stuck_reason}. {ADVICE}.")


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The figures of a run, drawn from its files.

    Attributes:
        run: its directory.
        config: its configuration.
        say: called with a line for a figure that cannot be drawn.
    """

    run: RunDirectory
    config: RunConfig
    say: Say

    @property
    def title(self) -> str:
        """Title of all figures."""
        config = self.config
        network = config.model.name
        if config.other != OtherConfig():
            network += f" and {config.other.model.name}"
        data = source_name(config.data.source).rpartition(":")[2]
        return f"{network} on {data} (recipe {config.recipe}, seed {config.seed})"

    def draw_training(self) -> None:
        """Draw curves.png from metrics.jsonl and, where the run has one, depth.png from depth.jsonl."""
        attempt(self.run.curves.name, self._curves, self.say)
        attempt(self.run.gradients.name, self._gradients, self.say)
        attempt(self.run.task_gradients_picture.name, self._task_gradients, self.say)

    def draw_all(self, result: Evaluation) -> None:
        """Draw these and the figure of the test, and store the data of the latter in a file."""
        self.draw_training()
        classes = "confusion" in result.details
        kept, picture = (self.run.confusion_counts, self.run.confusion) if classes else self._of_rows
        attempt(kept.name, lambda: self._keep(result), self.say)
        attempt(picture.name, self._test, self.say)
        if examples := result.details.get(EXAMPLES):
            attempt(self.run.examples.name, lambda: np.savez_compressed(self.run.examples, **examples), self.say)
            attempt(self.run.examples_picture.name, self._examples, self.say)

    def draw_missing(self) -> None:
        """Draw the missing figures of a finished run, and report it."""
        for path, draw in (
            (self.run.curves, self._curves),
            (self.run.gradients, self._gradients),
            (self.run.task_gradients_picture, self._task_gradients),
            (self._test_picture()[0], self._test),
            (self.run.examples_picture, self._examples),
        ):
            if not path.is_file() and attempt(path.name, draw, self.say) and path.is_file():
                self.say(f"drawn again: {path}")

    def say_where(self) -> None:
        """Print which figures there are."""
        for name, path in (
            ("curves", self.run.curves),
            ("confusion", self.run.confusion),
            ("predictions", self.run.predictions),
            ("examples", self.run.examples_picture),
            ("gradients through depth", self.run.gradients),
            ("gradients of the tasks", self.run.task_gradients_picture),
        ):
            if path.is_file():
                self.say(f"{name} {path}")

    def _curves(self) -> None:
        task = build_task(self.config, self.run.read_data())
        rows = read_metrics(self.run.metrics)
        title = f"Learning curves: {self.title}"
        plot_curves(rows, self.run.curves, title=title, headline=task.headline, mode=task.mode)

    def _gradients(self) -> None:
        if self.run.depth.is_file() and len((history := read_depth(self.run.depth)).steps):
            draw_history(history, self.run.gradients, title=f"Gradient through depth and time: {self.title}")

    def _task_gradients(self) -> None:
        path = self.run.task_gradients
        if path.is_file() and len((found := read_task_gradients(path)).steps):
            title = f"Do the tasks pull the same way? Cosine of their gradients: {self.title}"
            draw_task_gradients(found, self.run.task_gradients_picture, title=title)

    def _test_picture(self) -> tuple[Path, Path]:
        """Return the figure of the test and the file that it is drawn from."""
        if self.run.test_rows.is_file():
            return self.run.predictions, self.run.test_rows
        return self.run.confusion, self.run.confusion_counts

    @property
    def _of_rows(self) -> tuple[Path, Path]:
        """The file and figure of the test for tasks without classes."""
        return self.run.test_rows, self.run.predictions

    def _test(self) -> None:
        path, source = self._test_picture()
        if not source.is_file():
            if build_task(self.config, self.run.read_data()).kind not in _DRAWN:
                return
            raise RunError(f"{source.name}, which it is drawn of, is missing")
        card = self.run.read_data()
        stored = open_arrays(source)
        title = f"Answers on the test set: {self.title}"
        if source == self.run.test_rows and isinstance(task := build_task(self.config, card), Multitask):
            plot_task_rows(stored, {part.name: part.names for part in task.parts}, path, title=title)
            return
        if source == self.run.test_rows:
            plot_test_rows(stored, card.class_names, path, title=title)
            return
        try:
            counts = Confusion(int(stored["classes"]), *(stored[name] for name in ("true", "predicted", "counts")))
        except (KeyError, ValueError, TypeError) as error:
            raise DamagedError(f"{source} is not what was written: {error}") from error
        pixels = build_task(self.config, card).kind == "segmentation"
        right, total = counts.correct_of_true().sum(), counts.counts.sum()
        what = "pixels" if pixels else "test examples"
        share = 100 * right / max(total, 1)
        title = f"Confusion matrix: {self.title}; {right:,} of {total:,} {what} correct ({share:.1f} %)"
        names = card.class_names if len(card.class_names) > 1 else ("no", "yes")
        plot_confusion(counts, output_names(names, counts.classes), path, title=title)

    def _examples(self) -> None:
        if not self.run.examples.is_file():
            return
        card, kept = self.run.read_data(), open_arrays(self.run.examples)
        names, meanings = card.class_names, card.meanings
        if SIMILARITY in kept:
            title = f"Retrieval on the test set: {self.title}"
            draw_retrieval(kept, self.run.examples_picture, class_names=names, title=title)
            return
        of = {"class_names": names, "meanings": meanings, "bands": self.config.data.shown_bands}
        draw_pairs(kept, self.run.examples_picture, title=f"Test examples: {self.title}", **of)

    def _keep(self, result: Evaluation) -> None:
        confusion = result.details.get("confusion")
        if isinstance(confusion, Confusion):
            arrays = {name: getattr(confusion, name) for name in ("true", "predicted", "counts")}
            np.savez_compressed(self.run.confusion_counts, classes=np.int64(confusion.classes), **arrays)
        elif {"label", "prediction"} <= set(result.rows) or {"label", "score"} <= set(result.rows):
            names = ("label", "prediction", "score")
            kept: dict[str, Any] = {name: result.rows[name] for name in names if name in result.rows}
            np.savez_compressed(self.run.test_rows, **kept)
        elif kept := {name: each for name, each in result.rows.items() if name.partition("/")[2] in KEPT}:
            np.savez_compressed(self.run.test_rows, **kept)
