"""Who is trained on, who is selected on, and who is only reported on.

Splits are stratified: every class keeps its share of every split, to within rounding. They depend on the
labels, the fractions and the seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from resnet_jax.data.records import Dataset, Records, Subset
from resnet_jax.data.rng import SPLIT, permutation
from resnet_jax.errors import DataError, UsageError


@dataclass(frozen=True, eq=False)
class Splits:
    """The three roles of data.

    Attributes:
        train: parameters are fitted on it.
        val: models and settings are chosen on it; None if not wanted.
        test: read once, for the figure that is reported; None if not wanted.
    """

    train: Records
    val: Records | None
    test: Records | None


def split_indices(labels: np.ndarray, fractions: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """Divide 0..N-1 into disjoint parts that cover it and keep the class proportions.

    A part gets round(fraction * N) examples, the first one what is left. Each later part takes from class c
    its proportional share of what is still there, rounded up or down (largest remainders up, ties at random).

    Args:
        labels: integers (N,).
        fractions: part name -> fraction in [0, 1]; they add up to 1.
        seed: which of the possible divisions.

    Returns:
        Part name -> sorted indices, int64. A part of fraction 0 is empty.

    Raises:
        UsageError: the fractions are negative or do not add up to 1, or the seed is negative.
        DataError: a part of a fraction above 0 would be empty.

    >>> parts = split_indices(np.array([0, 0, 0, 0, 1, 1, 1, 1]), {"train": 0.75, "test": 0.25}, seed=0)
    >>> len(parts["train"]), np.array([0, 0, 0, 0, 1, 1, 1, 1])[parts["test"]].tolist()
    (6, [0, 1])
    """
    if min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-9:
        raise UsageError(f"split fractions {dict(fractions)} must be at least 0 and add up to 1")
    count = len(labels)
    first, *others = fractions
    sizes = {name: round(fractions[name] * count) for name in others}
    sizes[first] = count - sum(sizes.values())
    for name, fraction in fractions.items():
        if fraction > 0 and sizes[name] < 1:
            raise DataError(
                f"split {name!r} would be empty: {fraction:g} of {count} examples; "
                "use more data, a larger fraction, or 0 to go without it"
            )
    order = permutation(count, seed, SPLIT)
    pools = [order[labels[order] == c] for c in np.unique(labels)]
    parts = {}
    for name in others:
        taken = _shares(np.array([len(pool) for pool in pools]), sizes[name], seed)
        parts[name] = np.sort(np.concatenate([pool[:n] for pool, n in zip(pools, taken, strict=True)]))
        pools = [pool[n:] for pool, n in zip(pools, taken, strict=True)]
    parts[first] = np.sort(np.concatenate(pools))
    return {name: parts[name] for name in fractions}


def _shares(available: np.ndarray, total: int, seed: int) -> np.ndarray:
    """Apportion ``total`` over classes by largest remainder; a class never gives more than it has."""
    remaining = int(available.sum())
    quota, remainder = np.divmod(available * total, max(remaining, 1))  # exact, in integers
    ties = permutation(len(available), seed, SPLIT, epoch=1)
    up = np.lexsort((ties, -remainder))[: total - int(quota.sum())]
    quota[up] += 1
    return quota


def resolve_splits(dataset: Dataset, *, val_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0) -> Splits:
    """Give every example of a data set one role, holding out what the source does not.

    | the source has | train | val | test |
    |---|---|---|---|
    | all | the rest | ``val_fraction`` of all | ``test_fraction`` of all |
    | train, test | the rest | ``val_fraction`` of train | test |
    | train, val | the rest | ``val_fraction`` of train | **val**: what is reported must not be selected on |
    | train, val, test | train | val | test |

    Raises:
        UsageError: fractions that leave nothing to train on.
        DataError: a split would be empty.
    """
    splits = dataset.splits
    if "val" in splits and "test" in splits:
        return Splits(splits["train"], splits["val"], splits["test"])
    if "all" in splits:
        source, test = splits["all"], None
        fractions = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
    else:
        source, test = splits["train"], splits.get("test", splits.get("val"))
        fractions = {"train": 1 - val_fraction, "val": val_fraction}
    if fractions["train"] <= 0:
        raise UsageError(f"val_fraction {val_fraction:g} and test_fraction {test_fraction:g} leave nothing to train on")
    parts = {
        name: Subset(source, indices)
        for name, indices in split_indices(source.labels, fractions, seed).items()
        if len(indices)
    }
    return Splits(parts["train"], parts.get("val"), parts.get("test", test))


def whole(dataset: Dataset) -> Records:
    """Return all records of a source with one split, to evaluate on every one of them.

    Raises:
        UsageError: the source has several splits; the roles are then its own (`resolve_splits`).
    """
    if "all" not in dataset.splits:
        raise UsageError(f"{dataset.name} has the splits {', '.join(dataset.splits)}: name the one to evaluate")
    return dataset.splits["all"]
