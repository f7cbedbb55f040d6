"""Precision, recall and F1 from counts, which add over batches, and the expected calibration error from bins."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

#: Bins of the expected calibration error, of equal width, as in Guo et al. (2017).
BINS = 15


def precision_recall_f1(
    right: np.ndarray, predicted: np.ndarray, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall and F1 of every class (or label), float64 (K,).

    As scikit-learn with ``zero_division=0``: a class that was never predicted has precision 0, one that never occurred
    has recall 0. A class that neither occurred nor was predicted has no score: NaN.

    Args:
        right: (K,) correctly predicted examples of the class.
        predicted: (K,) examples predicted as the class.
        true: (K,) examples of the class.

    >>> [scores.tolist() for scores in precision_recall_f1(np.array([1]), np.array([2]), np.array([1]))]
    [[0.5], [1.0], [0.6666666666666666]]
    """
    right, predicted, true = (np.asarray(counts, np.float64) for counts in (right, predicted, true))
    seen = predicted + true > 0

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.where(seen, part / np.maximum(whole, 1.0), np.nan)

    return share(right, predicted), share(right, true), share(2 * right, predicted + true)


def mean_known(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none.

    >>> mean_known(np.array([1.0, np.nan, 3.0]))
    2.0
    """
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def calibration_sums(confidence: jax.Array, correct: jax.Array) -> dict[str, jax.Array]:
    """Return per-example values that sum to the expected calibration error's bins, one-hot (N, BINS).

    Bin i holds confidences in (i / BINS, (i + 1) / BINS]; the first bin also holds 0.

    Args:
        confidence: (N,) probability of the predicted class.
        correct: (N,) bool.
    """
    index = jnp.clip(jnp.ceil(confidence * BINS).astype(jnp.int32) - 1, 0, BINS - 1)
    inside = index[:, None] == jnp.arange(BINS, dtype=jnp.int32)[None]
    return {
        "bin_count": inside,
        "bin_confidence": jnp.where(inside, confidence[:, None], jnp.zeros((), confidence.dtype)),
        "bin_correct": inside & correct[:, None],
    }


def expected_calibration_error(count: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return sum_b (n_b / n) |accuracy_b - confidence_b| from the sums (BINS,) of :func:`calibration_sums`.

    Guo et al., On Calibration of Modern Neural Networks (2017), equation 3. ``n_b`` times the difference of two means
    is the difference of two sums.

    >>> expected_calibration_error(np.array([4.0, 0.0]), np.array([3.0, 0.0]), np.array([2.0, 0.0]))
    0.25
    """
    return float(np.abs(correct - confidence).sum() / count.sum())
