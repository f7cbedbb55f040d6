"""Stratified splits: every class keeps its fraction of every part to within rounding, and one example to train on.

The result depends only on the labels, the fractions and the seed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resnet_jax.data.rng import SPLIT, permutation
from resnet_jax.errors import DataError, UsageError


def split_indices(labels: np.ndarray, fractions: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """Divide 0..N-1 into disjoint parts that cover it and keep the class proportions.

    A part gets round(fraction * N) examples, and the first one the rest. Each later part takes from class c its
    proportional share of what is left, rounded up or down (largest remainders up, ties at random). No class gives its
    last example to a later part: what it would have given comes from the classes with most examples left.

    Args:
        labels: integers (N,).
        fractions: part name -> fraction in [0, 1]; they sum to 1.
        seed: selects one of the possible divisions.

    Returns:
        Part name -> sorted indices, int64. A part of fraction 0 is empty.

    Raises:
        UsageError: if the fractions are negative or do not sum to 1, or the seed is negative.
        DataError: if a part with a positive fraction would be empty, or the classes are too small for what is held out.

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
    keep = 1 if fractions[first] > 0 else 0
    _require_enough(labels, sizes, first, keep)
    order = permutation(count, seed, SPLIT)
    pools = [order[labels[order] == c] for c in np.unique(labels)]
    parts = {}
    for name in others:
        taken = _shares(np.array([len(pool) for pool in pools]), sizes[name], seed, keep)
        parts[name] = np.sort(np.concatenate([pool[:n] for pool, n in zip(pools, taken, strict=True)]))
        pools = [pool[n:] for pool, n in zip(pools, taken, strict=True)]
    parts[first] = np.sort(np.concatenate(pools))
    return {name: parts[name] for name in fractions}


def _require_enough(labels: np.ndarray, sizes: Mapping[str, int], first: str, keep: int) -> None:
    """Refuse to hold out more than possible if every class keeps an example."""
    counts = np.unique(labels, return_counts=True)[1]
    held_out = {name: size for name, size in sizes.items() if name != first and size}
    most, wanted = int((counts - keep).sum()), sum(held_out.values())
    if wanted <= most:
        return
    parts = " and ".join(f"{size:,} for {name}" for name, size in held_out.items())
    single = int((counts == 1).sum())
    raise DataError(
        f"{single:,} of {len(counts):,} classes have one image only, {len(labels):,} images in all: {parts} would "
        f"leave classes without an image to train on, for at most {most:,} can be held out. Use two images a class or "
        "more, smaller fractions (data.val_fraction 0, data.test_fraction), or test images of your own beside the "
        "training images"
    )


def _shares(available: np.ndarray, total: int, seed: int, keep: int) -> np.ndarray:
    """Apportion ``total`` over classes by largest remainder; a class never gives its last ``keep`` examples."""
    remaining = int(available.sum())
    quota, remainder = np.divmod(available * total, max(remaining, 1))  # exact, in integers
    ties = permutation(len(available), seed, SPLIT, epoch=1)
    up = np.lexsort((ties, -remainder))[: total - int(quota.sum())]
    quota[up] += 1
    excess = np.maximum(quota - np.maximum(available - keep, 0), 0)
    quota -= excess
    for _ in range(int(excess.sum())):  # from the class with most left
        quota[np.lexsort((ties, quota - available))[0]] += 1
    return quota
