"""Calibration of a classifier, and one temperature for all its logits.

C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, On Calibration of Modern Neural Networks (ICML 2017): softmax(z / T) with
the T that minimizes the cross-entropy on validation images. T changes no prediction, only its confidence. The loss is
convex in 1 / T, so the minimum is found by bounded Newton steps.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.tasks.scores import BINS

LEAST, MOST = 1e-3, 1e3
"""Bounds of 1 / T. Logits that are never wrong would make it grow without limit."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Confidence and accuracy of a network in 15 bins of its confidence.

    Attributes:
        count: number of examples in each bin, (BINS,).
        confidence: their mean confidence; NaN for an empty bin.
        accuracy: their accuracy; NaN for an empty bin.
        ece: expected calibration error, sum_b (n_b / n) |accuracy_b - confidence_b|.
        loss: mean cross-entropy.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float
    loss: float


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log softmax over the last axis, float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def calibration(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Calibration:
    """Return the calibration of softmax(logits / temperature).

    Args:
        logits: (N, K).
        labels: (N,), integers.
        temperature: divisor of the logits.
    """
    logs = log_softmax(np.asarray(logits, np.float64) / temperature)
    found, confidence = logs.argmax(axis=1), np.exp(logs.max(axis=1))
    right = (np.asarray(logits).argmax(axis=1) == labels).astype(np.float64)
    assert found.shape == right.shape
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    count, sure, good = (np.bincount(bins, weights, BINS) for weights in (None, confidence, right))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sure / count, good / count
    loss = -float(logs[np.arange(len(labels)), labels].mean())
    return Calibration(count, *means, float(np.abs(good - sure).sum() / len(labels)), loss)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature T that minimizes the mean cross-entropy of softmax(logits / T).

    With b = 1 / T, the loss has the first derivative mean(E_p[z] - z_y) and the second derivative mean(Var_p[z]), where
    p is softmax(b z).

    Args:
        logits: (N, K), for images that the network was not trained on.
        labels: (N,), integers.

    Returns:
        T, between 0.001 and 1,000.

    Raises:
        UsageError: there are no examples, or logits are not finite.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if not len(labels) or not np.isfinite(logits).all():
        raise UsageError(f"a temperature is fitted to finite logits of 1 or more examples, got {logits.shape}")
    logits = logits - logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(labels)), labels]
    low, high, inverse = LEAST, MOST, 1.0
    for _ in range(200):
        shares = np.exp(log_softmax(inverse * logits))
        mean = (shares * logits).sum(axis=1)
        slope, curve = float((mean - own).mean()), float(((shares * logits**2).sum(axis=1) - mean**2).mean())
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curve if curve > 0 else np.inf
        following = step if low < step < high else np.sqrt(low * high)
        if abs(following - inverse) <= 1e-12 * inverse:
            break
        inverse = following
    return float(1 / inverse)
