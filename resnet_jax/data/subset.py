"""Part of the training examples, for studies of how many a network needs: nested, by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnet_jax.data.names import hashed
from resnet_jax.data.rng import SUBSETS, permutation
from resnet_jax.errors import DataError, UsageError


def check_subset(size: float) -> None:
    """Refuse what is neither a share nor a number.

    Raises:
        UsageError: it is neither.
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
    """Return the sorted positions of a part; of two sizes the smaller part is in the larger one.

    Args:
        labels: of classes, integers (N,).
        size: below 1 a share of every class, rounded, but one example at least; else a number a class.
        seed: which part.
        class_names: of the labels; None where these are no classes, of which no number a class can be had.
        told: what tells the examples apart, where their order goes by a hash of it; None for a random order.

    Raises:
        UsageError: a number a class, and there are none.
        DataError: a class has fewer examples than are wanted.

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
