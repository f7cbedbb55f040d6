"""Multi-label: every example has any number of labels; the sigmoid of an output is the probability of its label."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.tasks.facts import TaskFacts
from resnet_jax.tasks.losses import binary_cross_entropy, is_yes
from resnet_jax.tasks.ranking import average_precision, roc_auc
from resnet_jax.tasks.registry import criterion_of, positive_weights_of, register_task, require_kind, require_outputs
from resnet_jax.tasks.scores import mean_known, precision_recall_f1
from resnet_jax.tasks.task import Answers, Batch, TaskBase, mean_yes


@dataclasses.dataclass(frozen=True)
class MultiLabel(TaskBase):
    """Labels are rows (N, K) of 0 and 1; the loss is the binary cross-entropy averaged over the labels.

    A label is predicted if its probability is above the threshold. Metrics: ``map`` (the headline: average precision,
    averaged over the labels), ``macro_auc``, ``micro_f1`` and ``macro_f1`` at the thresholds, and ``subset_accuracy``,
    the share of examples with all labels right. A label that all examples or none have has no AUC, and one that none
    has no average
    precision: these are left out of the means and named.

    Attributes:
        num_outputs: number of labels, K.
        label_smoothing: s: the target becomes (1 - s) y + s / 2.
        positive_weights: factor on the loss of a label that is present; () for 1, otherwise one per label.
        thresholds: in (0, 1); one, or one per label.
        names: names of the labels, for notes; () for their numbers.

    >>> task = MultiLabel(2, thresholds=(0.5, 0.9))
    >>> task.predict(np.array([[2.0, 2.0]]), top=1)[0][0][0]  # the probability of both is 0.88
    0
    """

    kind: ClassVar[str] = "multilabel"
    headline: ClassVar[str] = "map"
    mode: ClassVar[Literal["max", "min"]] = "max"
    answers: ClassVar[Answers] = "probabilities"

    label_smoothing: float = 0.0
    positive_weights: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = (0.5,)
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, values in (("positive weights", self.positive_weights), ("thresholds", self.thresholds)):
            if len(values) not in ((0, self.num_outputs) if name == "positive weights" else (1, self.num_outputs)):
                raise UsageError(f"{len(values)} {name} do not go with {self.num_outputs} labels")
        if any(not 0.0 < threshold < 1.0 for threshold in self.thresholds):
            raise UsageError(f"thresholds must be in (0, 1), got {self.thresholds}")
        if any(not 0.0 < weight < float("inf") for weight in self.positive_weights):
            raise UsageError(f"positive weights must be finite and positive, got {self.positive_weights}")

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Reject labels that are not rows of 0 and 1."""
        labels = np.asarray(batch["label"])
        if labels.ndim != 2 or labels.shape[1] != self.num_outputs:
            raise UsageError(f"labels must be rows (N, {self.num_outputs}) of 0 and 1, got {labels.shape}")
        wrong = ((labels != 0) & (labels != 1)).any(axis=1) & np.asarray(batch.get("mask", True), bool)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise UsageError(
                f"labels {labels[first].tolist()} of example {first} of the batch are not all 0 or 1; "
                f"{int(wrong.sum())} such examples among {len(labels)}"
            )

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Return the cross-entropy averaged over the labels, (N,), in nats; NaN for labels outside [0, 1]."""
        weights = jnp.asarray(self.positive_weights or (1.0,), jnp.float32)
        return binary_cross_entropy(
            outputs, batch["label"], label_smoothing=self.label_smoothing, positive_weights=weights
        ).mean(axis=-1)

    def train_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return the number of correctly predicted, predicted, and present labels of each example, (N,)."""
        sums = self._counts(outputs, batch)
        return {name: sums[name].sum(axis=-1, dtype=jnp.int32) for name in ("right", "predicted", "true")}

    def train_metrics(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Return the micro F1."""
        return {"micro_f1": _micro_f1(sums["right"], sums["predicted"], sums["true"])}

    def eval_sums(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return ``right``, ``predicted`` and ``true`` of every label, (N, K), and ``exact`` (N,)."""
        counts = self._counts(outputs, batch)
        return {**counts, "exact": (counts["predicted"] == counts["true"]).all(axis=-1)}

    def eval_rows(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return ``label``, bool (N, K), and ``score``, the outputs (N, K)."""
        return {"label": is_yes(batch["label"]), "score": outputs}

    def eval_metrics(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, float]:
        """Return mAP, the mean AUC, micro and macro F1, and the subset accuracy."""
        details = self.eval_details(sums, rows, count)
        return {
            "map": mean_known(details["average_precision"]),
            "macro_auc": mean_known(details["auc"]),
            "micro_f1": _micro_f1(*(float(sums[name].sum()) for name in ("right", "predicted", "true"))),
            "macro_f1": float(details["f1"].mean()),
            "subset_accuracy": float(sums["exact"]) / count,
        }

    def eval_details(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, Any]:
        """Return ``average_precision``, ``auc``, ``precision``, ``recall`` and ``f1`` of every label, float64 (K,)."""
        pairs = list(zip(rows["label"].T, rows["score"].T, strict=True))
        scores = precision_recall_f1(sums["right"], sums["predicted"], sums["true"])
        return {
            "average_precision": np.array([average_precision(*pair) for pair in pairs]),
            "auc": np.array([roc_auc(*pair) for pair in pairs]),
            # a label that neither occurs nor is predicted has an F1 of 0, as in scikit-learn's macro mean
            **dict(zip(("precision", "recall", "f1"), map(np.nan_to_num, scores), strict=True)),
        }

    def eval_notes(self, details: Mapping[str, Any]) -> tuple[str, ...]:
        """Name the labels that are left out of the means."""
        said = []
        for name, what in (
            ("average_precision", "no example that has them: map leaves them out"),
            ("auc", "only examples with them, or only without: macro_auc leaves them out"),
        ):
            missing = np.flatnonzero(np.isnan(details[name]))
            if len(missing):
                listed = ", ".join(self.names[k] if self.names else str(k) for k in missing[:5])
                more = ", ..." if len(missing) > 5 else ""
                said.append(f"{len(missing)} of {self.num_outputs} labels ({listed}{more}) have {what}")
        return tuple(said)

    def mean_outputs(self, outputs: jax.Array) -> jax.Array:
        """Return outputs (views, N, K) whose probabilities are the mean over the views."""
        return mean_yes(outputs)

    def predict(self, outputs: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
        """Return all labels above the threshold, most likely first, with their probabilities."""
        probabilities = self.probabilities(outputs)
        over = probabilities > np.asarray(self.thresholds)[None]
        return [
            [(int(k), float(row[k])) for k in np.argsort(-row, kind="stable") if there[k]]
            for row, there in zip(probabilities, over, strict=True)
        ]

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probability of every label, float64 (N, K)."""
        return np.exp(-np.logaddexp(0.0, -np.asarray(outputs, np.float64)))

    def _counts(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        limits = np.asarray(self.thresholds)
        predicted = outputs > jnp.asarray(np.log(limits) - np.log1p(-limits), outputs.dtype)[None]
        true = is_yes(batch["label"])
        return {"right": predicted & true, "predicted": predicted, "true": true}


def _micro_f1(right: float, predicted: float, true: float) -> float:
    """Return F1 of all labels together; 0 if there are none, as in scikit-learn."""
    return 2 * right / (predicted + true) if predicted + true else 0.0


@register_task("multilabel", uses=("loss", "label_smoothing", "positive_weights", "threshold"))
def make_multilabel(config: TaskConfig, facts: TaskFacts) -> MultiLabel:
    """Return the configured multi-label task."""
    require_kind("multilabel", facts, "multi-label")
    require_outputs(facts, "labels")
    criterion_of(config, "multilabel", ("bce",))
    weights = positive_weights_of(config, facts.counts, facts)
    return MultiLabel(facts.num_outputs, config.label_smoothing, weights, config.threshold, facts.names)
