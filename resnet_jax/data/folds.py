"""k-fold cross-validation: the training examples in k parts, each of which is the validation part of one run."""

from __future__ import annotations

import re

import numpy as np

from resnet_jax.data.rng import FOLDS, permutation
from resnet_jax.errors import UsageError


def parse_fold(text: str) -> tuple[int, int]:
    """Return i and k of ``i/k``: fold i of k, counted from 1.

    Raises:
        UsageError: if it has another form.

    >>> parse_fold("5/5")
    (5, 5)
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if count < 2 or not 1 <= number <= count:
        raise UsageError(
            f"data.fold {text!r} must be i/k, fold i of k: k is 2 or more, and folds are counted from 1, so that the "
            "five of 5 are 1/5 to 5/5"
        )
    return number, count


def fold_of(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the fold of every example, 0 .. count - 1, with the class sizes of folds differing by at most one.

    The sizes of the folds also differ by at most one.

    Args:
        labels: integers (N,).
        count: number of folds.
        seed: selects one of the possible divisions.

    >>> fold_of(np.array([0, 0, 0, 0, 1, 1]), 2, seed=0).tolist()
    [0, 1, 0, 1, 1, 0]
    """
    order = permutation(len(labels), seed, FOLDS)
    by_class = order[np.argsort(labels[order], kind="stable")]  # dealt out one by one, class after class
    folds = np.empty(len(labels), np.int64)
    folds[by_class] = np.arange(len(labels)) % count
    return folds
