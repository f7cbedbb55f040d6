"""Nested, stratified subsets of the training examples, to study how many a network needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnet_jax.data.names import hashed
from resnet_jax.data.rng import SUBSETS, permutation
from resnet_jax.errors import DataError, UsageError


def check_subset(size: float) -> None:
    """Reject anything that is neither a fraction nor a number.

    Raises:
        UsageError: if it is neither.
    """
    if not (0 < size < 1 or (size >= 1 and size == int(size))):
        raise UsageError(
            f"data.subset {size:g} must be a share of the training examples between 0 and 1, such as 0.1, or a whole "
            "number of examples a class, from 1 on"
        )


def subset_of(
    labels: np.ndarray,
    size: float,
    seed: int,
    *,
    class_names: Sequence[str] | None,
    told: Sequence[str | bytes] | None = None,
) -> np.ndarray:
    """Return the sorted positions of a subset; of two sizes, the smaller subset is contained in the larger one.

    Args:
        labels: class labels, integers (N,).
        size: below 1 a fraction of every class, rounded, but at least one example; otherwise a number per class.
        seed: selects the subset.
        class_names: names of the labels; None if they are not classes, so that a number per class is impossible.
        told: what distinguishes the examples, if their order is given by a hash of it; None for a random order.

    Raises:
        UsageError: for a number per class without classes.
        DataError: if a class has too few examples.

    >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> half, one = (subset_of(labels, size, 0, class_names=("a", "b")) for size in (0.5, 1))
    >>> len(half), labels[one].tolist()
    (4, [0, 1])
    """
    if size >= 1 and class_names is None:
        raise UsageError(
            f"data.subset {size:g} is a number of examples a class, and these have no classes: give a share, such as "
            "0.1"
        )
    if told is None:
        order = permutation(len(labels), seed, SUBSETS)
    else:
        order = np.argsort(hashed(told, seed, "subset"), kind="stable")
    found = []
    for c in np.unique(labels):
        ranked = order[labels[order] == c]
        if size > len(ranked):
            assert class_names is not None
            fewest = int(np.unique(labels, return_counts=True)[1].min())
            raise DataError(
                f"data.subset {size:g} is more than the {len(ranked):,} training examples of class {class_names[c]}; "
                f"of every class {fewest:,} can be had, or a share"
            )
        found.append(ranked[: int(size) if size >= 1 else max(1, round(size * len(ranked)))])
    return np.sort(np.concatenate(found))
