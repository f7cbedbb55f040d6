"""The meaning of a network's outputs: the loss to minimize, the metrics to report, the predictions.

A task knows batches and outputs, but nothing about networks, files or training. Its metrics have two sources:
per-example values that are summed, which add over batches, devices and processes; and rows that are kept for every
example, for metrics that do not add (the area under a curve).

:class:`Task` is the interface that the step, the evaluation and the runs use. :class:`TaskBase` implements everything
but the loss, so start from it for a task of your own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import numpy as np

Batch = Mapping[str, jax.Array]
Answers = Literal["probabilities", "values", "boxes"]
"""What the numbers of predictions are."""


@runtime_checkable
class Task(Protocol):
    """The meaning of a network's outputs. Tasks are frozen, hashable values; their functions are pure.

    Outputs are what the network's head returns: an array (N, ...) or, where stated, a dict of such arrays.

    Attributes:
        kind: its name in a summary, such as ``classification``.
        headline: the metric that selects the best state and controls early stopping, such as ``accuracy``.
        mode: whether larger or smaller is better.
        heads: heads of a network that make suitable outputs; the first is used unless ``model.head`` says otherwise.
        inputs: fields of the examples that are inputs of the network.
        compares: whether the loss of an example depends on others of its batch. A step then looks at the whole batch:
            it is neither mapped over devices nor split into micro-batches.
        draws_examples: whether a run draws test examples with :meth:`predicted_fields`.
        num_outputs: outputs of the network; 0 if unknown.
        answers: what the numbers of :meth:`predict` are.
    """

    kind: ClassVar[str]
    headline: ClassVar[str]
    mode: ClassVar[Literal["max", "min"]]
    heads: ClassVar[tuple[str, ...]]
    inputs: ClassVar[tuple[str, ...]]
    compares: ClassVar[bool]
    draws_examples: ClassVar[bool]
    answers: ClassVar[Answers]

    @property
    def num_outputs(self) -> int: ...

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Reject a host batch with invalid targets, naming the first (on the device they only give NaN).

        Examples whose ``mask`` is False are padding and are not checked.

        Raises:
            UsageError: a target is invalid; the message has the first one and its place in the batch.
        """
        ...

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Return the loss of every example, (N,); the step minimizes its mean."""
        ...

    def train_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return per-example values, (N,), whose sums a train step reports beside the loss, such as ``correct``."""
        ...

    def train_metrics(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Return metrics from the sums of :meth:`train_sums` over ``count`` examples, such as ``accuracy``."""
        ...

    def eval_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return per-example values, (N, ...), whose sums over the data give metrics."""
        ...

    def eval_rows(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return per-example values, (N, ...), that are kept for every example of the data."""
        ...

    def eval_metrics(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, float]:
        """Return the metrics of a data set, numbers by name, including the headline unless that is ``loss``.

        Args:
            sums: sums of :meth:`eval_sums`, float64.
            rows: rows of :meth:`eval_rows`, every example once, in the order of the data.
            count: number of examples.
        """
        ...

    def eval_details(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, Any]:
        """Return results that are more than a number: arrays (K,) with a number for every output, a confusion."""
        ...

    def eval_notes(self, details: Mapping[str, Any]) -> tuple[str, ...]:
        """Return remarks for readers of the metrics, one sentence each: what is left out of a mean, and why."""
        ...

    def predict(self, outputs: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
        """Return the predictions for each example.

        Args:
            outputs: (N, num_outputs), on the host.
            top: maximum number of answers per example, where there is a choice.

        Returns:
            For every example, pairs of an index into :meth:`answer_names` and the number that goes with it.
        """
        ...

    def answer_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names for the indices of :meth:`predict`, given the names of the classes, labels or targets."""
        ...

    def predicted_fields(self, outputs: Any) -> dict[str, np.ndarray]:
        """Return the predictions as fields that examples have, (N, ...): a ``segmentation``, ``boxes``.

        A run uses them to draw some of its test examples next to the truth. A field ``caption``, texts (N,), is written
        below. Called only for a task with ``draws_examples``.
        """
        ...


@dataclasses.dataclass(frozen=True)
class TaskBase:
    """A base class without metrics: a subclass adds :meth:`loss`, and overrides what it has.

    The loss is the headline, smaller is better, and predictions are the outputs themselves.
    """

    kind: ClassVar[str] = "own"
    headline: ClassVar[str] = "loss"
    mode: ClassVar[Literal["max", "min"]] = "min"
    heads: ClassVar[tuple[str, ...]] = ("classifier",)
    inputs: ClassVar[tuple[str, ...]] = ("image",)
    compares: ClassVar[bool] = False
    draws_examples: ClassVar[bool] = False

    #: What the numbers of :meth:`predict` are.
    answers: ClassVar[Answers] = "values"

    num_outputs: int = 0

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Check nothing."""

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Return the loss of every example, (N,)."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def train_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return nothing."""
        return {}

    def train_metrics(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Return the mean of every sum, under its name."""
        return {name: value / count for name, value in sums.items()}

    def eval_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return the same as in training."""
        return self.train_sums(outputs, batch)

    def eval_rows(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return nothing."""
        return {}

    def eval_metrics(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, float]:
        """Return the same metrics as in training."""
        return self.train_metrics({name: float(value) for name, value in sums.items()}, count)

    def eval_details(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def eval_notes(self, details: Mapping[str, Any]) -> tuple[str, ...]:
        """Return nothing."""
        return ()

    def mean_outputs(self, outputs: jax.Array) -> jax.Array:
        """Return the outputs that stand for several views of an example, (views, N, ...) -> (N, ...): the mean."""
        return jax.tree.map(lambda each: each.mean(axis=0), outputs)

    def predict(self, outputs: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
        """Return all outputs of every example."""
        return [list(enumerate(row.tolist())) for row in outputs]

    def answer_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names unchanged."""
        return names

    def predicted_fields(self, outputs: Any) -> dict[str, np.ndarray]:
        """Return nothing."""
        return {}


@dataclasses.dataclass(frozen=True)
class LossOf:
    """The loss of a task as a function ``(outputs, labels) -> (N,)``, for an array of labels or a batch of targets."""

    task: Task

    def __call__(self, outputs: Any, labels: jax.Array | Batch) -> jax.Array:
        """Return the loss of every example, (N,)."""
        return self.task.loss(outputs, _as_batch(labels))


@dataclasses.dataclass(frozen=True)
class RightOf:
    """Whether the outputs are correct for every example, for a task whose headline is accuracy; see :class:`LossOf`."""

    task: Task

    def __call__(self, outputs: Any, labels: jax.Array | Batch) -> jax.Array:
        """Return bool (N,)."""
        return self.task.train_sums(outputs, _as_batch(labels))["correct"]


def _as_batch(labels: jax.Array | Batch) -> Batch:
    return labels if isinstance(labels, Mapping) else {"label": labels}


#: Metrics that are shares of 1, shown in percent. Others, including those of your own tasks, are shown as numbers.
SHARES = frozenset(
    {"accuracy", "top5", "subset_accuracy", "precision", "recall", "f1", "ece"}
    | {"miou", "pixel_accuracy", "mean_class_accuracy"}
    | {"class_recall1", "batch_recall1", "zero_shot_image", "zero_shot_other", "zero_shot_both"}
    | {
        f"{one}_to_{another}_{by}_recall{k}"
        for one, another in (("image", "other"), ("other", "image"))
        for by in ("class", "pair")
        for k in (1, 5, 10)
    }
    | {f"{mean}_{what}" for mean in ("macro", "micro") for what in ("precision", "recall", "f1")}
)

#: Metric -> what a figure calls it, where that is more than its name with spaces.
METRIC_WORDS = {
    "top5": "top-5 accuracy", "map": "mean AP (mAP)", "ap50": "AP at IoU 0.5 (AP50)", "ap75": "AP at IoU 0.75 (AP75)",
    "miou": "mean IoU", "r2": "R²", "rmse": "root mean squared error", "mae": "mean absolute error",
    "auc": "area under the ROC curve", "f1": "F1", "micro_f1": "micro F1", "macro_f1": "macro F1",
    "ece": "expected calibration error", "class_recall1": "recall@1 by class",
    "batch_recall1": "recall@1 within the batch", "score": "mean score of the tasks", "centre_loss": "center loss",
}  # fmt: skip


def metric_words(name: str) -> str:
    """Return what a figure calls a metric.

    >>> metric_words("macro_precision"), metric_words("digit/top5"), metric_words("ap50")
    ('macro precision', 'digit top-5 accuracy', 'AP at IoU 0.5 (AP50)')
    """
    above, _, last = name.rpartition("/")
    words = METRIC_WORDS.get(last, last.replace("_", " "))
    return f"{above.replace('_', ' ')} {words}" if above else words


def format_metric(name: str, value: float, *, width: int = 0) -> str:
    """Format a metric for people: shares in percent, other numbers with four digits.

    >>> format_metric("accuracy", 0.98765), format_metric("r2", 0.98765), format_metric("digit/f1", 0.98765)
    ('98.77%', '0.9877', '98.77%')
    """
    text = f"{value:.2%}" if name.rpartition("/")[2] in SHARES else f"{value:.4g}"
    return f"{text:>{width}}"


def mean_yes(outputs: jax.Array) -> jax.Array:
    """Return the log-odds of the probability of yes averaged over views, (views, ...) -> (...).

    >>> round(float(jax.nn.sigmoid(mean_yes(jax.numpy.array([0.0, 100.0])))), 4)
    0.75
    """
    yes, no = jax.nn.log_sigmoid(outputs), jax.nn.log_sigmoid(-outputs)
    return jax.nn.logsumexp(yes, axis=0) - jax.nn.logsumexp(no, axis=0)


def ranked(probabilities: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
    """Return the most likely entries of each row (N, K) in descending order, with their probabilities."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [[(int(k), float(row[k])) for k in ranks] for row, ranks in zip(probabilities, order, strict=True)]
