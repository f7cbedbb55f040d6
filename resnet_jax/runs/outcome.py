"""What a run ends with: its summary, the lines that say it, and its pictures, which come after it and may only warn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from resnet_jax.data.classes import output_names
from resnet_jax.errors import RunError
from resnet_jax.report.depth_file import draw_history, read_depth
from resnet_jax.report.metrics_file import read_metrics
from resnet_jax.report.plots import plot_confusion, plot_curves
from resnet_jax.report.views import attempt
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.tasks.confusion import Confusion
from resnet_jax.training.stuck import ADVICE

Say = Callable[[str], None]


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
        params_digest: see :func:`resnet_jax.models.digest.params_digest`; of the last state.
        run_dir: where everything is.
        first_step_seconds: from the start of that command, its imports left out, until its first step was done:
            reading the images and compiling, or finding the compiled step in the cache. None if no step was left.
        stuck: whether it ended no better than chance (:mod:`resnet_jax.training.stuck`); None if that cannot be said.
        stuck_reason: why it is said to be, or why nothing can be said; None for a run that has learned.
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
    stuck: bool | None = None
    stuck_reason: str | None = None


def conclude(summary: Summary, say: Say) -> None:
    """Say what came out."""
    best, rate = summary.best_val_accuracy, summary.images_per_second
    say(f"test accuracy {summary.test_accuracy:.2%} ({summary.test_correct} of {summary.test_examples})")
    if best is not None:
        say(f"best validation accuracy {best:.2%}")
    speed = f", {rate:,.0f} images/s while training" if rate else ""
    first = summary.first_step_seconds
    start = "" if first is None else f", the first done after {first:.1f} s"
    say(f"{summary.steps:,} steps in {summary.seconds:.0f} s{start}{speed}")


def say_if_stuck(summary: Summary, say: Say) -> None:
    """Say that the run is stuck, if it is."""
    if summary.stuck:
        say(f"This run is stuck: {summary.stuck_reason}. {ADVICE}.")


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of a run, drawn from its files.

    Attributes:
        run: its directory.
        config: its configuration.
        say: is given a line for a picture that cannot be drawn.
    """

    run: RunDirectory
    config: RunConfig
    say: Say

    @property
    def title(self) -> str:
        """Headline of all of them."""
        config = self.config
        return (
            f"{config.model.name} on {config.data.source.split('/')[-1]} (recipe {config.recipe}, seed {config.seed})"
        )

    def draw_training(self) -> None:
        """Draw curves.png from metrics.jsonl and, where the run has one, depth.png from depth.jsonl."""
        attempt(self.run.curves.name, self._curves, self.say)
        attempt(self.run.gradients.name, self._gradients, self.say)

    def draw_all(self, confusion: Confusion) -> None:
        """Draw these and confusion.png, and keep the counts of the latter in confusion.npz."""
        self.draw_training()
        attempt(self.run.confusion_counts.name, lambda: self._keep(confusion), self.say)
        attempt(self.run.confusion.name, self._confusion, self.say)

    def draw_missing(self) -> None:
        """Draw what a finished run has not, and say so."""
        for path, draw in (
            (self.run.curves, self._curves),
            (self.run.gradients, self._gradients),
            (self.run.confusion, self._confusion),
        ):
            if not path.is_file() and attempt(path.name, draw, self.say) and path.is_file():
                self.say(f"drawn again: {path}")

    def say_where(self) -> None:
        """Say which there are."""
        for name, path in (
            ("curves", self.run.curves),
            ("confusion", self.run.confusion),
            ("gradients through depth", self.run.gradients),
        ):
            if path.is_file():
                self.say(f"{name} {path}")

    def _curves(self) -> None:
        plot_curves(read_metrics(self.run.metrics), self.run.curves, title=self.title)

    def _gradients(self) -> None:
        if self.run.depth.is_file() and len((history := read_depth(self.run.depth)).steps):
            draw_history(history, self.run.gradients, title=self.title)

    def _confusion(self) -> None:
        if not self.run.confusion_counts.is_file():
            raise RunError(f"{self.run.confusion_counts.name}, which it is drawn of, is missing")
        with np.load(self.run.confusion_counts) as stored:
            counts = Confusion(int(stored["classes"]), *(stored[name] for name in ("true", "predicted", "counts")))
        title = f"{self.title}: {counts.correct_of_true().sum()} of {counts.counts.sum()} test images"
        names = output_names(self.run.read_data().class_names, counts.classes)
        plot_confusion(counts, names, self.run.confusion, title=title)

    def _keep(self, confusion: Confusion) -> None:
        arrays = {name: getattr(confusion, name) for name in ("true", "predicted", "counts")}
        np.savez_compressed(self.run.confusion_counts, classes=np.int64(confusion.classes), **arrays)
