"""The metrics of a task over resampled examples, for every task of the package.

A draw says how often each of the N examples occurs, ``times`` (N,). Anything too expensive to do a thousand times
(matching boxes, sorting scores) is done once before. The expected calibration error has no interval: it is biased
upwards, so on resampled examples it is larger than on the examples themselves, and the percentiles would lie above it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

from resnet_jax.runs.evaluate import RunEvaluation
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.contrastive import Contrastive
from resnet_jax.tasks.detection import Detection
from resnet_jax.tasks.detection_ap import THRESHOLDS
from resnet_jax.tasks.ranking import RankedScores
from resnet_jax.tasks.retrieval import RANKS, recalls, zero_shot
from resnet_jax.tasks.scores import mean_known, precision_recall_f1
from resnet_jax.tasks.task import Task
from resnet_jax.training.step import SUMMAND

Scores: TypeAlias = "Mapping[str, float | np.ndarray]"
"""Metrics by name; for several classes, labels or targets an array (K,)."""
Statistic: TypeAlias = "Callable[[np.ndarray], Scores]"
"""``times`` (N,) -> the scores of these examples."""

EACH = " of each"
"""Suffix of the names of metrics that exist for every class, label or target."""
DRAWS = 1000
SEVERAL, FEW = 4000, 200
"""With more than ``SEVERAL`` examples, only ``FEW`` draws are made if every draw computes the metrics from scratch."""


def intervals(task: Task, result: RunEvaluation, seed: int = 0) -> tuple[dict[str, tuple[Any, Any]], int]:
    """Return the 95 % percentile interval of every score (Efron 1979), low and high, and the number of draws.

    A score that is undefined in more than half of the draws (such as the AUC of a single class) has no interval.

    Args:
        task: the meaning of the rows.
        result: an evaluation with ``summands`` and, for classification, ``logits``.
        seed: seed of the resampling.
    """
    statistic, dear = statistic_of(task, result)
    examples, rng = result.examples, np.random.default_rng(seed)
    draws = FEW if dear and examples > SEVERAL else DRAWS
    drawn = [statistic(np.bincount(rng.integers(0, examples, examples), minlength=examples)) for _ in range(draws)]
    found: dict[str, tuple[Any, Any]] = {}
    for name in drawn[0]:
        values = np.asarray([each.get(name, np.nan) for each in drawn], np.float64)
        known = np.isfinite(values).sum(axis=0) * 2 > draws
        safe = np.where(np.isfinite(values) & known, values, np.where(known, np.nan, 0.0))
        low, high = np.nanquantile(safe, [0.025, 0.975], axis=0)
        found[name] = np.where(known, low, np.nan), np.where(known, high, np.nan)
    return found, draws


def statistic_of(task: Task, result: RunEvaluation) -> tuple[Statistic, bool]:
    """Return the scores as a function of how often each example occurs, and whether it computes them from scratch."""
    if isinstance(task, Detection):
        return _boxes(task, result.rows), False
    if isinstance(task, Classification) and "prediction" in result.rows:
        return _classes(task, result), False
    if isinstance(task, Contrastive):
        return _pairs(task, result), False
    return _anew(task, result.rows), True


def _anew(task: Task, rows: Mapping[str, Any]) -> Statistic:
    """Return the task's own metrics of the examples, each repeated as often as it occurs."""
    terms = {name.removeprefix(SUMMAND): np.asarray(each) for name, each in rows.items() if name.startswith(SUMMAND)}
    kept = {name: each for name, each in rows.items() if not name.startswith(SUMMAND) and name != "logits"}

    def scores(times: np.ndarray) -> Scores:
        count, index = int(times.sum()), np.repeat(np.arange(len(times)), times)
        sums = {name: np.asarray(np.tensordot(times.astype(np.float64), each, 1)) for name, each in terms.items()}
        drawn = jax.tree.map(lambda each: each[index], kept)
        details = task.eval_details(sums, drawn, count)
        arrays = {f"{n}{EACH}": each for n, each in details.items() if isinstance(each, np.ndarray) and each.ndim == 1}
        return {**arrays, **task.eval_metrics(sums, drawn, count)}

    return scores


def _boxes(task: Detection, rows: Mapping[str, Any]) -> Statistic:
    """Return average precision; the detections of every image are matched once."""
    matches = [task.matches(rows, label) for label in range(task.num_outputs)]
    at75 = int(np.argmin(np.abs(THRESHOLDS - 0.75)))

    def scores(times: np.ndarray) -> Scores:
        by_class = np.stack([each.precisions(times) for each in matches], axis=1)
        means = by_class.mean(axis=0)
        metrics = {"ap50": mean_known(by_class[0]), "ap75": mean_known(by_class[at75]), "map": mean_known(means)}
        return {**metrics, f"ap50{EACH}": by_class[0], f"map{EACH}": means}

    return scores


def _classes(task: Classification, result: RunEvaluation) -> Statistic:
    """Return the metrics of :meth:`.Classification.eval_metrics` from counts."""
    rows, classes = result.rows, task.num_outputs
    labels, answers = (np.asarray(rows[name]) for name in ("label", "prediction"))
    right = labels == answers
    ranked: list[RankedScores] = []
    if "scores" in rows and np.isfinite(rows["scores"]).all():
        shares = task.probabilities(np.asarray(rows["scores"])).T
        places = range(classes) if classes > 2 else (1,)
        ranked = [RankedScores.of(labels == place, shares[place]) for place in places]

    def scores(times: np.ndarray) -> Scores:
        counts = (
            np.bincount(labels, times * right, classes),
            np.bincount(answers, times, classes),
            np.bincount(labels, times, classes),
        )
        means = dict(zip(("precision", "recall", "f1"), map(mean_known, precision_recall_f1(*counts)), strict=True))
        found = {f"macro_{name}": mean for name, mean in means.items()}
        if ranked:
            found["auc"] = mean_known(np.array([each.auc(times) for each in ranked]))
        return found

    return scores


def _pairs(task: Contrastive, result: RunEvaluation) -> Statistic:
    """Return recall; the queries are resampled, while the gallery stays complete."""
    rows = result.rows
    labels, hits = np.asarray(rows["label"]), dict[str, np.ndarray]()
    for source, target in (("image", "other"), ("other", "image")):
        for by, found in recalls(rows[source], rows[target], labels).items():
            hits |= {f"{source}_to_{target}_{by}_recall{k}": found[k] for k in RANKS}
    scale = float(result.sums["scale"]) / result.examples
    for side, shares in zero_shot(rows["image"], rows["other"], labels, task.classes, scale).items():
        hits[f"zero_shot_{side}"] = shares.argmax(axis=1) == labels
    both = ("image_to_other_class_recall1", "other_to_image_class_recall1")
    hits[task.headline] = (hits[both[0]].astype(np.float64) + hits[both[1]]) / 2
    return lambda times: {name: float(times @ each / times.sum()) for name, each in hits.items()}
