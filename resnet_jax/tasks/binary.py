"""Yes or no: one output, whose sigmoid is the probability of yes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.tasks.classification import confusion_details, require_classes
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.tasks.facts import TaskFacts
from resnet_jax.tasks.losses import binary_cross_entropy, is_yes
from resnet_jax.tasks.ranking import average_precision, roc_auc
from resnet_jax.tasks.registry import criterion_of, positive_weights_of, register_task, require_kind
from resnet_jax.tasks.task import Answers, Batch, TaskBase, mean_yes


@dataclasses.dataclass(frozen=True)
class Binary(TaskBase):
    """One output z per example. Labels are 0 (no) and 1 (yes), (N,) or (N, 1), and the loss is binary cross-entropy.

    The prediction is yes if the probability sigmoid(z) is above the threshold. Metrics: ``accuracy`` (the headline),
    ``auc`` (area under the ROC curve), ``average_precision``, and ``precision``, ``recall`` and ``f1`` of yes.

    Attributes:
        num_outputs: 1.
        label_smoothing: s: the target becomes (1 - s) y + s / 2.
        positive_weight: factor on the loss of positive examples.
        threshold: in (0, 1).
    """

    kind: ClassVar[str] = "binary"
    headline: ClassVar[str] = "accuracy"
    mode: ClassVar[Literal["max", "min"]] = "max"
    answers: ClassVar[Answers] = "probabilities"

    num_outputs: int = 1
    label_smoothing: float = 0.0
    positive_weight: float = 1.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.num_outputs != 1:
            raise UsageError(f"a binary task has one output, got {self.num_outputs}")
        if not 0.0 < self.threshold < 1.0:
            raise UsageError(f"the threshold must be in (0, 1), got {self.threshold}")

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Reject labels that are neither 0 nor 1."""
        labels = np.asarray(batch["label"])
        if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
            require_classes(batch, 2)

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Return the cross-entropy, (N,), in nats; NaN for labels outside [0, 1]."""
        weights = jnp.asarray([self.positive_weight], jnp.float32)
        return binary_cross_entropy(
            _logit(outputs)[:, None],
            _label(batch["label"])[:, None],
            label_smoothing=self.label_smoothing,
            positive_weights=weights,
        )[:, 0]

    def train_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return ``correct``, bool (N,)."""
        return {"correct": self._yes(outputs) == (is_yes(_label(batch["label"])))}

    def train_metrics(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Return the accuracy."""
        return {"accuracy": sums["correct"] / count}

    def eval_rows(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return ``label`` and ``prediction``, int32 (N,), and ``score``, the output (N,)."""
        label, prediction = is_yes(_label(batch["label"])), self._yes(outputs)
        return {"label": label.astype(jnp.int32), "prediction": prediction.astype(jnp.int32), "score": _logit(outputs)}

    def eval_metrics(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, float]:
        """Return accuracy, AUC, average precision, and precision, recall and F1 of yes."""
        details = self.eval_details(sums, rows, count)
        return {
            "accuracy": float(sums["correct"]) / count,
            "auc": roc_auc(rows["label"], rows["score"]),
            "average_precision": average_precision(rows["label"], rows["score"]),
            **{name: float(details[name][1]) for name in ("precision", "recall", "f1")},
        }

    def eval_details(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, Any]:
        """Return the ``confusion`` of no and yes, and ``precision``, ``recall`` and ``f1`` of both, float64 (2,)."""
        return confusion_details(rows["label"], rows["prediction"], 2)

    def eval_notes(self, details: Mapping[str, Any]) -> tuple[str, ...]:
        """Report an undefined AUC."""
        of_true = details["confusion"].total_of_true()
        if of_true.min() > 0:
            return ()
        return (f"all {of_true.sum():,} examples are {'yes' if of_true[1] else 'no'}: there is no AUC",)

    def mean_outputs(self, outputs: jax.Array) -> jax.Array:
        """Return outputs (views, N, K) whose probabilities are the mean over the views."""
        return mean_yes(outputs)

    def predict(self, outputs: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
        """Return yes (1) and no (0) with their probabilities, the predicted one first."""
        over = np.asarray(outputs)[:, 0] > _logit_of(self.threshold)
        order = np.where(over[:, None], [[1, 0]], [[0, 1]])[:, :top]
        rows = zip(self.probabilities(outputs), order, strict=True)
        return [[(int(k), float(row[k])) for k in ranks] for row, ranks in rows]

    def answer_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of no and yes; for one label, these are ``not NAME`` and ``NAME``."""
        return (f"not {names[0]}", names[0]) if len(names) == 1 else names

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probabilities of no and yes, float64 (N, 2)."""
        z = np.asarray(outputs, np.float64)
        return np.exp(-np.logaddexp(0.0, np.concatenate([z, -z], axis=1)))

    def _yes(self, outputs: jax.Array) -> jax.Array:
        return _logit(outputs) > _logit_of(self.threshold)


def _logit_of(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


def _logit(outputs: jax.Array) -> jax.Array:
    if outputs.ndim != 2 or outputs.shape[1] != 1:
        raise UsageError(f"a binary task takes outputs of shape (batch, 1), got {outputs.shape}")
    return outputs[:, 0]


def _label(labels: jax.Array) -> jax.Array:
    """Return labels of shape (N,) or (N, 1) as (N,)."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


@register_task("binary", uses=("loss", "label_smoothing", "positive_weights", "threshold"))
def make_binary(config: TaskConfig, facts: TaskFacts) -> Binary:
    """Return the configured binary task, for two classes or one label."""
    require_kind("binary", facts, "class", "multi-label")
    criterion_of(config, "binary", ("bce",))
    if facts.label_kind == "class" and facts.examples and len(facts.names) != 2:
        raise UsageError(f"task.kind binary needs two classes, no and yes, and the data has {len(facts.names)}")
    if facts.label_kind == "multi-label" and len(facts.names) != 1:
        raise UsageError(f"task.kind binary needs one label, and the data has {len(facts.names)}: use multilabel")
    if facts.outputs not in (None, 1):
        raise UsageError(f"task.kind binary has one output: leave model.num_classes {facts.outputs} out")
    if len(config.threshold) != 1:
        raise UsageError(f"task.threshold must be one number for task.kind binary, got {config.threshold}")
    weights = positive_weights_of(config, facts.counts[-1:], facts) or (1.0,)
    if len(weights) != 1:
        raise UsageError(f"task.positive_weights must be one number for task.kind binary, got {weights}")
    return Binary(1, config.label_smoothing, weights[0], config.threshold[0])
