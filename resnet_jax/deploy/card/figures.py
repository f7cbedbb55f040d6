"""The figures of a model card: metrics with intervals, and those of every class, label or target."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from resnet_jax.deploy.card.intervals import bootstrap, wilson
from resnet_jax.deploy.card.resampling import DRAWS, EACH, intervals
from resnet_jax.deploy.card.temperature import log_softmax
from resnet_jax.runs.evaluate import RunEvaluation
from resnet_jax.runs.trained import TrainedRun
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.contrastive import Contrastive
from resnet_jax.tasks.task import SHARES, Task

WILSON = "Wilson"
COUNTED = {"accuracy": "correct", "top5": "top5"}
"""Metric -> what is counted for its examples; all other metrics are bootstrapped."""
BY_CLASS = {
    "segmentation": {"IoU": "iou", "accuracy": "class_accuracy"},
    "detection": {"AP50": "ap50", "AP50:95": "map"},
    "multilabel": {"average precision": "average_precision", "AUC": "auc", "F1": "f1"},
    "regression": {"R2": "r2", "RMSE": "rmse", "MAE": "mae"},
}
"""Task -> head of a column -> the entry of ``eval_details`` in it."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A metric with its 95 % interval, if there is one.

    Attributes:
        name: its name in ``eval``.
        value: over the images.
        low: lower end of the interval; None if there is none.
        high: upper end.
        how: Wilson, bootstrap, or "".
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    how: str = ""


@dataclasses.dataclass(frozen=True)
class ClassFigure:
    """A class: its number of examples, its recall, and its precision."""

    name: str
    examples: int
    recall: float
    recall_interval: tuple[float, float]
    precision: float
    precision_interval: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Figures:
    """The figures of an evaluation: its metrics and, for tasks other than classification, those of every class or
    target.
    """

    metrics: tuple[Figure, ...]
    by_class: Mapping[str, tuple[Figure, ...]]


def has_softmax(trained: TrainedRun) -> bool:
    """Return whether the outputs are those of a softmax classifier, so that a temperature can be fitted."""
    loss = trained.config.task.loss or "cross_entropy"
    return isinstance(trained.task, Classification) and loss not in ("bce", "mse")


def answers(result: RunEvaluation) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (N, K) and labels (N,) of the images that could be read."""
    logits, labels = np.asarray(result.logits), np.asarray(result.rows["label"])
    if len(logits) != len(labels):  # skipped images have rows of NaN
        logits = logits[np.isfinite(logits).all(axis=1)]
    return logits, labels


def figures_of(trained: TrainedRun, result: RunEvaluation) -> Figures:
    """Return every metric of an evaluation: Wilson's interval for shares of counted examples, bootstrap for the others.

    Args:
        trained: the run.
        result: with ``summands`` and, for classification, ``logits``.
    """
    drawn, draws = intervals(trained.task, result)
    how = f"bootstrap, {draws:,} draws"
    found = []
    for name, value in result.metrics.items():
        counts = _counted(trained.task, result, name)
        if counts is not None:
            found.append(Figure(name, value, *wilson(*counts), WILSON))
        else:
            found.append(_figure(name, value, drawn.get(name), how))
    if has_softmax(trained):
        logits, labels = answers(result)
        losses = -log_softmax(logits)[np.arange(len(labels)), labels]
        interval = bootstrap(lambda index: float(losses[index].mean()), len(losses))
        found.append(Figure("cross_entropy", float(losses.mean()), *interval, f"bootstrap, {DRAWS:,} draws"))
    return Figures(tuple(found), _by_class(trained, result, drawn, how))


def _figure(name: str, value: float, interval: tuple[Any, Any] | None, how: str) -> Figure:
    if interval is None or not math.isfinite(value) or not np.isfinite(interval).all() or name.endswith("ece"):
        return Figure(name, value)
    return Figure(name, value, float(interval[0]), float(interval[1]), how)


def _counted(task: Task, result: RunEvaluation, name: str) -> tuple[int, int] | None:
    """Return the number of correct examples and their total; None for a metric that is not a share of examples.

    For pairs these are the queries, while the gallery stays fixed; ``class_recall1`` is a mean of two shares.
    """
    if isinstance(task, Contrastive) and name in SHARES and name != task.headline:
        return round(result.metrics[name] * result.examples), result.examples
    above, _, last = name.rpartition("/")
    prefix = f"{above}/" if above else ""
    right = result.sums.get(prefix + COUNTED.get(last, "?"))
    if right is None or np.ndim(right):
        return None
    return int(right), int(result.sums[f"{prefix}count"]) if above else result.examples


def _by_class(
    trained: TrainedRun, result: RunEvaluation, drawn: Mapping[str, tuple[Any, Any]], how: str
) -> dict[str, tuple[Figure, ...]]:
    columns = BY_CLASS.get(trained.task.kind, {})
    names = trained.output_names or trained.card.class_names
    if not columns or len(names) < 2:
        return {}
    found = {}
    for place, name in enumerate(names):
        row = []
        for head, detail in columns.items():
            low, high = drawn[f"{detail}{EACH}"]
            value = float(result.details[detail][place])
            row.append(_figure(head, value, (low[place], high[place]), how))
        found[name] = tuple(row)
    return found


def classes_of(trained: TrainedRun, result: RunEvaluation) -> tuple[ClassFigure, ...]:
    """Return recall and precision of every class of a classifier that has examples."""
    if not isinstance(trained.task, Classification) or "prediction" not in result.rows:
        return ()
    labels, said = (np.asarray(result.rows[name]) for name in ("label", "prediction"))
    names = trained.output_names or trained.card.class_names
    found = []
    for place, name in enumerate(names):
        of, called = labels == place, said == place
        right, examples, calls = int((of & called).sum()), int(of.sum()), int(called.sum())
        if not examples:
            continue
        recall, precision = right / examples, right / calls if calls else float("nan")
        intervals = wilson(right, examples), wilson(right, calls)
        found.append(ClassFigure(name, examples, recall, intervals[0], precision, intervals[1]))
    return tuple(found)
