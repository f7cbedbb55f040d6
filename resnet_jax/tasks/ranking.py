"""Ranking metrics, which do not add over batches: the area under the ROC curve, and the average precision.

They are computed from the scores of all examples, in float64, with ties exactly as in scikit-learn. Host code, no JAX.
"""

from __future__ import annotations

import dataclasses

import numpy as np


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve: how often a positive scores higher than a negative, with ties counting half.

    NaN if all labels are the same, because there are no such pairs, or if a score is NaN.

    Args:
        labels: (N,) bool or 0 and 1.
        scores: (N,) larger for positives; any increasing transformation gives the same result.

    >>> roc_auc(np.array([0, 1, 1]), np.array([0.1, 0.1, 0.9]))
    0.75
    """
    positives, negatives = _grouped(labels, scores)
    pairs = positives.sum() * negatives.sum()
    if np.isnan(scores).any() or pairs == 0:
        return float("nan")
    above = np.concatenate([[0.0], np.cumsum(positives)[:-1]])
    return float((negatives * (above + positives / 2)).sum() / pairs)


@dataclasses.dataclass(frozen=True)
class RankedScores:
    """Scores of N examples, ranked once, so that the area under the curve of resampled examples needs no sorting.

    Attributes:
        order: the examples in order of falling score, (N,).
        starts: the position in this order where each distinct score begins.
        labels: labels of the examples in this order, float64.
    """

    order: np.ndarray
    starts: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, scores: np.ndarray) -> RankedScores:
        """Rank scores (N,) with labels (N,) of 0 and 1."""
        order = np.argsort(-scores, kind="stable")
        ordered = scores[order]
        starts = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])
        return cls(order, starts, np.asarray(labels, np.float64)[order])

    def auc(self, times: np.ndarray) -> float:
        """Return :func:`roc_auc` if example n occurs ``times[n]`` times; NaN if all labels are then the same."""
        counts = times[self.order].astype(np.float64)
        positives = np.add.reduceat(counts * self.labels, self.starts)
        negatives = np.add.reduceat(counts * (1.0 - self.labels), self.starts)
        pairs = positives.sum() * negatives.sum()
        above = np.cumsum(positives) - positives
        return float((negatives * (above + positives / 2)).sum() / pairs) if pairs else float("nan")


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return sum_i (R_i - R_(i-1)) P_i over the distinct scores in descending order, without interpolation.

    NaN without a positive (scikit-learn gives 0, with a warning), or if a score is NaN.

    Args:
        labels: (N,) bool or 0 and 1.
        scores: (N,) larger for positives.

    >>> average_precision(np.array([0, 1, 1]), np.array([0.5, 0.1, 0.9]))
    0.8333333333333333
    """
    positives, negatives = _grouped(labels, scores)
    if np.isnan(scores).any() or positives.sum() == 0:
        return float("nan")
    found = np.cumsum(positives)
    return float((positives * found / (found + np.cumsum(negatives))).sum() / positives.sum())


def precision_recall_curve(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall at every distinct score in descending order, float64; recall ascends."""
    positives, negatives = _grouped(labels, scores)
    found = np.cumsum(positives)
    return found / (found + np.cumsum(negatives)), found / max(found[-1], 1.0)


def _grouped(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of positives and negatives at each distinct score in descending order, float64."""
    labels, scores = np.asarray(labels, np.float64), np.asarray(scores)
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1]) if len(scores) else np.zeros(0, int)
    positives, negatives = (np.add.reduceat(each[order], starts) for each in (labels, 1.0 - labels))
    return positives, negatives
