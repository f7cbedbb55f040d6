"""Metrics of rankings, which do not add over batches: the area under the ROC curve, and the average precision.

Computed from the scores of all examples, in float64, ties exactly as scikit-learn. Host code, no JAX.
"""

from __future__ import annotations

import dataclasses

import numpy as np


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve: how often a positive has a larger score than a negative, a tie half.

    NaN if all labels are the same, for then there are no such pairs, or if a score is NaN.

    Args:
        labels: (N,) bool or 0 and 1.
        scores: (N,) larger for positives; any increasing function of them gives the same.

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
    """Scores of N examples, ranked once: the area under the curve of examples drawn again and again costs no sorting.

    Attributes:
        order: the examples, that of the largest score first, (N,).
        starts: where in this order each different score begins.
        labels: of the examples in this order, float64.
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
        """Return :func:`roc_auc` where example n is there ``times[n]`` times; NaN if all labels are the same then."""
        counts = times[self.order].astype(np.float64)
        positives = np.add.reduceat(counts * self.labels, self.starts)
        negatives = np.add.reduceat(counts * (1.0 - self.labels), self.starts)
        pairs = positives.sum() * negatives.sum()
        above = np.cumsum(positives) - positives
        return float((negatives * (above + positives / 2)).sum() / pairs) if pairs else float("nan")


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return sum_i (R_i - R_(i-1)) P_i, over the different scores from the largest on; no interpolation.

    NaN without a positive (scikit-learn: 0, with a warning), or if a score is NaN.

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
    """Return precision and recall at every different score, from the largest on, float64; recall ascends."""
    positives, negatives = _grouped(labels, scores)
    found = np.cumsum(positives)
    return found / (found + np.cumsum(negatives)), found / max(found[-1], 1.0)


def _grouped(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positives and the negatives of each different score, from the largest on, float64."""
    labels, scores = np.asarray(labels, np.float64), np.asarray(scores)
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1]) if len(scores) else np.zeros(0, int)
    positives, negatives = (np.add.reduceat(each[order], starts) for each in (labels, 1.0 - labels))
    return positives, negatives
