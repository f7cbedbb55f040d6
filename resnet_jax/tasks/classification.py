"""Classification: every example has one class, and the largest output decides."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.fields import Positive, check_value, field_hints
from resnet_jax.tasks.config import AboveZero, BelowZero, TaskConfig
from resnet_jax.tasks.confusion import Confusion
from resnet_jax.tasks.facts import TaskFacts
from resnet_jax.tasks.losses import LOSS_OPTIONS, LOSSES, dense_targets, get_loss
from resnet_jax.tasks.ranking import roc_auc
from resnet_jax.tasks.registry import class_weights_of, criterion_of, register_task, require_kind, require_outputs
from resnet_jax.tasks.scores import calibration_sums, expected_calibration_error, mean_known, precision_recall_f1
from resnet_jax.tasks.task import Answers, Batch, TaskBase, mean_yes, ranked

Criterion = Literal[
    "cross_entropy", "bce", "mse", "generalized_cross_entropy", "symmetric_cross_entropy", "soft_bootstrap"
]
#: Number of most likely classes that count as correct for ``top5``, which exists for more classes than this.
TOP = 5
#: Maximum number of classes for the area under the ROC curve, which keeps every probability.
AUC_CLASSES = 20
#: Parameters of losses for noisy labels, as fields of the task and of its configuration -> their loss.
LOSS_PARAMETERS = {option: loss for loss, options in LOSS_OPTIONS.items() for option in options}


@dataclasses.dataclass(frozen=True)
class Classification(TaskBase):
    """Every example has one class. Labels are class indices (N,), or soft labels (N, K) from mixing.

    Metrics: ``accuracy`` (the headline), ``top5`` for more than 5 classes, macro ``precision``, ``recall`` and ``f1``
    (over the classes that occur or are predicted, as in scikit-learn), ``auc`` for 2 to 20 classes, and ``ece``, the
    expected calibration error. An example with soft labels counts for its largest share. ``auc`` is the mean over the
    classes of the one-vs-rest area under the ROC curve by the class's probability, as in MedMNIST (Yang et al. 2023,
    arXiv 2110.14795); for two classes it is that of the second.

    Attributes:
        num_outputs: classes; 0 if only the outputs tell, which is enough for a step.
        criterion: the loss: ``cross_entropy``, ``bce`` (one against all), ``mse`` (towards one-hot rows), one for noisy
            labels (``generalized_cross_entropy``, ``symmetric_cross_entropy``, ``soft_bootstrap``), or a function
            ``(logits, labels) -> (N,)``.
        label_smoothing: share of the target spread over all classes, for ``cross_entropy`` and ``bce``.
        class_weights: factor on the loss of an example by its class; () for 1. Soft labels use the mean weighted by
            their shares. The mean loss is over examples, not over weights.
        gce_q: q of ``generalized_cross_entropy``.
        sce_alpha: alpha of ``symmetric_cross_entropy``.
        sce_beta: beta of ``symmetric_cross_entropy``.
        sce_floor: A of ``symmetric_cross_entropy``, which replaces log 0.
        bootstrap_beta: beta of ``soft_bootstrap``.

    Raises:
        UsageError: incompatible values.

    >>> task = Classification(3)
    >>> batch = {"label": jnp.array([2, 0])}
    >>> task.train_sums(jnp.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]), batch)["correct"].tolist()
    [True, False]
    """

    kind: ClassVar[str] = "classification"
    headline: ClassVar[str] = "accuracy"
    mode: ClassVar[Literal["max", "min"]] = "max"
    answers: ClassVar[Answers] = "probabilities"

    criterion: Criterion | Callable[[jax.Array, jax.Array], jax.Array] = "cross_entropy"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    gce_q: AboveZero = 0.7
    sce_alpha: Positive = 0.1
    sce_beta: Positive = 1.0
    sce_floor: BelowZero = -4.0
    bootstrap_beta: AboveZero = 0.95

    def __post_init__(self) -> None:
        for name in LOSS_PARAMETERS:
            check_value(name, getattr(self, name), field_hints(type(self))[name])
        if isinstance(self.criterion, str):
            get_loss(self.criterion, self.label_smoothing)
        elif self.label_smoothing:
            raise UsageError("label_smoothing goes with cross_entropy and bce, not with a loss of your own")
        if self.class_weights and len(self.class_weights) != self.num_outputs:
            raise UsageError(f"{len(self.class_weights)} class weights do not go with {self.num_outputs} classes")
        if any(not 0.0 <= weight < float("inf") for weight in self.class_weights):
            raise UsageError(f"class weights must be finite and not negative, got {self.class_weights}")

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Reject labels outside the classes; see :func:`require_classes`."""
        if self.num_outputs:
            require_classes(batch, self.num_outputs)

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Return the loss of every example, (N,)."""
        labels = batch["label"]
        losses = self._criterion()(outputs, labels)
        if not self.class_weights:
            return losses
        rows = dense_targets(outputs, labels)
        return losses * (rows * jnp.asarray(self.class_weights, rows.dtype)[None]).sum(axis=-1)

    def _criterion(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        if not isinstance(self.criterion, str):
            return self.criterion
        options = LOSS_OPTIONS.get(self.criterion, {})
        parameters = {keyword: getattr(self, option) for option, keyword in options.items()}
        return get_loss(self.criterion, self.label_smoothing, **parameters)

    def train_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return ``correct``, bool (N,)."""
        return {"correct": _class_of(outputs) == hard_labels(batch["label"])}

    def train_metrics(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Return the accuracy."""
        return {"accuracy": sums["correct"] / count}

    def eval_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return ``correct``, ``top5`` for more than 5 classes, and the bins of the calibration error."""
        correct = self.train_sums(outputs, batch)["correct"]
        sums = {"correct": correct, **calibration_sums(self._confidence(outputs), correct)}
        if outputs.shape[-1] > TOP:
            sums["top5"] = _rank(outputs, hard_labels(batch["label"])) < TOP
        return sums

    def eval_rows(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return ``label`` and ``prediction``, int32 (N,), and for few classes the outputs, ``scores`` (N, K)."""
        scores = {"scores": outputs} if 2 <= outputs.shape[-1] <= AUC_CLASSES else {}
        return {"label": hard_labels(batch["label"]), "prediction": _class_of(outputs), **scores}

    def eval_metrics(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, float]:
        """Return accuracy, top5, macro precision, recall and F1, the AUC, and the expected calibration error."""
        details = self.eval_details(sums, rows, count)
        bins = (sums[f"bin_{name}"] for name in ("count", "confidence", "correct"))
        return {
            "accuracy": float(sums["correct"]) / count,
            **({"top5": float(sums["top5"]) / count} if "top5" in sums else {}),
            **{f"macro_{name}": mean_known(details[name]) for name in ("precision", "recall", "f1")},
            **({"auc": self._auc(rows["label"], rows["scores"])} if "scores" in rows else {}),
            "ece": expected_calibration_error(*bins),
        }

    def eval_details(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, Any]:
        """Return the ``confusion``, and ``precision``, ``recall`` and ``f1`` of every class, float64 (K,)."""
        return confusion_details(rows["label"], rows["prediction"], self.num_outputs)

    def predict(self, outputs: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
        """Return the most likely classes of each example in descending order, with their probabilities."""
        return ranked(self.probabilities(outputs), top)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probabilities, float64 (N, K), that outputs (N, K) stand for under the network's training loss."""
        logits = np.asarray(outputs, np.float64)
        match self.criterion:
            case "mse":  # trained towards one-hot rows
                return np.clip(logits, 0.0, 1.0)
            case "bce":  # one yes or no per class; need not sum to 1
                return np.exp(-np.logaddexp(0.0, -logits))
            case _:
                return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))

    def mean_outputs(self, outputs: jax.Array) -> jax.Array:
        """Return outputs for views (views, N, K) whose probabilities are the mean over the views; for mse, the mean
        itself.
        """
        match self.criterion:
            case "mse":
                return outputs.mean(axis=0)
            case "bce":
                return mean_yes(outputs)
            case _:
                return jax.nn.logsumexp(jax.nn.log_softmax(outputs, axis=-1), axis=0) - math.log(outputs.shape[0])

    def _auc(self, labels: np.ndarray, outputs: np.ndarray) -> float:
        """Return the mean one-vs-rest area under the ROC curve over the classes where it is defined."""
        if not np.isfinite(outputs).all():
            return math.nan
        scores = self.probabilities(outputs).T
        classes = range(len(scores)) if len(scores) > 2 else (1,)  # for two classes both areas are equal
        return mean_known(np.array([roc_auc(labels == k, scores[k]) for k in classes]))

    def _confidence(self, outputs: jax.Array) -> jax.Array:
        """Return the probability of the predicted class, (N,)."""
        largest = outputs.max(axis=-1)
        match self.criterion:
            case "mse":
                return jnp.clip(largest, 0.0, 1.0)
            case "bce":
                return jax.nn.sigmoid(largest)
            case _:
                return jax.nn.softmax(outputs, axis=-1).max(axis=-1)


def hard_labels(labels: jax.Array) -> jax.Array:
    """Return class indices, int32 (N,); for soft labels (N, K), the class with the largest share."""
    if labels.ndim > 1:
        labels = jnp.argmax(labels, axis=-1)
    return labels.astype(jnp.int32)


def _class_of(outputs: jax.Array) -> jax.Array:
    return jnp.argmax(outputs, axis=-1).astype(jnp.int32)


def _rank(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the number of classes ranked before the label: larger outputs, and equal ones with a smaller index, as in
    argmax.

    An output that is NaN ranks before all others.
    """
    own = jnp.take_along_axis(outputs, labels[:, None], axis=-1, mode="clip")
    earlier = jnp.arange(outputs.shape[-1], dtype=jnp.int32)[None] < labels[:, None]
    return (~(outputs <= own) | ((outputs == own) & earlier)).sum(axis=-1, dtype=jnp.int32)


def confusion_details(labels: np.ndarray, predictions: np.ndarray, classes: int) -> dict[str, Any]:
    """Return the ``confusion`` of examples (N,), and ``precision``, ``recall`` and ``f1`` of every class, (K,)."""
    confusion = Confusion.of_rows(labels, predictions, classes)
    counts = confusion.correct_of_true(), confusion.total_of_predicted(), confusion.total_of_true()
    return {
        "confusion": confusion,
        **dict(zip(("precision", "recall", "f1"), precision_recall_f1(*counts), strict=True)),
    }


def require_classes(batch: Mapping[str, np.ndarray], num_classes: int) -> None:
    """Reject a host batch with labels outside the classes; on the device such a label can only give a NaN loss.

    Labels that are rows or floats are not checked, nor are examples whose ``mask`` is False.

    Raises:
        UsageError: a label is invalid; the message has the first one and its place in the batch.

    >>> require_classes({"label": np.array([0, 9, -1]), "mask": np.array([True, True, False])}, 10)
    """
    labels = np.asarray(batch["label"])
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        return
    outside = ((labels < 0) | (labels >= num_classes)) & np.asarray(batch.get("mask", True), bool)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise UsageError(
            f"label {labels[first]} of example {first} of the batch is outside 0..{num_classes - 1}, the range of "
            f"{num_classes} classes; {int(outside.sum())} such labels among {labels.size}"
        )


@register_task("classification", uses=("loss", "label_smoothing", "class_weights", "distill", *LOSS_PARAMETERS))
def make_classification(config: TaskConfig, facts: TaskFacts) -> Classification:
    """Return the configured classification task."""
    require_kind("classification", facts, "class")
    require_outputs(facts, "classes", more=True)
    criterion: Any = criterion_of(config, "classification", tuple(LOSSES))
    if len(config.class_weights) != facts.num_outputs and not isinstance(config.class_weights, str):
        raise UsageError(f"task.class_weights has {len(config.class_weights)} numbers for {facts.num_outputs} classes")
    if config.distill.teacher is not None and criterion in ("bce", "mse"):
        raise UsageError(
            f"task.distill goes with losses of the softmax, such as cross_entropy, and not with task.loss {criterion}"
        )
    parameters = {name: getattr(config, name) for name in LOSS_PARAMETERS}
    for name, loss in LOSS_PARAMETERS.items():
        if loss != criterion and parameters[name] != getattr(TaskConfig(), name):
            raise UsageError(f"task.{name} {parameters[name]:g} is of task.loss {loss}, not of {criterion}")
    weights = class_weights_of(config, facts)
    return Classification(facts.num_outputs, criterion, config.label_smoothing, weights, **parameters)
