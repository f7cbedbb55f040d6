"""Groups of examples that must stay together in a split: all images of a patient, all recordings of a speaker."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from resnet_jax.data.layout import shortened
from resnet_jax.data.names import names_of
from resnet_jax.data.records import Source, groups_of
from resnet_jax.data.rng import FOLDS, permutation
from resnet_jax.errors import DataError, UsageError

KNOWN = "group"
"""Instead of a pattern: the groups known to the source."""


def check_pattern(pattern: str) -> None:
    """Reject anything but a regular expression with one group.

    Raises:
        UsageError: if it is not one; the message has an example.
    """
    if pattern == KNOWN:
        return
    example = "'^([^_]+)_' takes what stands before the first _"
    try:
        count = re.compile(pattern).groups
    except re.error as error:
        raise UsageError(f"data.group_by {pattern!r} is no regular expression ({error}); {example}") from None
    if count != 1:
        raise UsageError(
            f"data.group_by {pattern!r} has {count} groups in parentheses; it needs one, around what names the group: "
            f"{example}; or write {KNOWN} for the groups that the source knows"
        )


def groups_by(records: Source, dataset: str, pattern: str) -> list[str]:
    """Return the group of every example.

    Args:
        records: the records of the data set, not a part of them.
        dataset: its name, ``KIND:LOCATION``.
        pattern: a regular expression with one group, matched against the name of each example; or ``group``.

    Raises:
        DataError: if the source knows no groups, or a name does not match the pattern.
    """
    if pattern == KNOWN:
        known = groups_of(records)
        if known is None:
            raise DataError(
                f"{dataset}: data.group_by group, but the source knows no groups: a manifest does by its column group, "
                "and of files a regular expression finds them in the names"
            )
        return [str(group) for group in known]
    names, compiled = names_of(records, dataset), re.compile(pattern)
    if names is None:
        names = [records.describe(index) for index in range(len(records))]
    found = [match and match[1] for match in map(compiled.search, names)]
    without = [name for name, group in zip(names, found, strict=True) if group is None]
    if without:
        raise DataError(
            f"{dataset}: data.group_by {pattern!r} is not in the names of {len(without):,} of {len(names):,} examples: "
            f"{shortened(without, 3)}"
        )
    return [str(group) for group in found]


def divide_groups(
    labels: np.ndarray, groups: Sequence[str], shares: Sequence[float], seed: int, *, keep_first: bool
) -> np.ndarray:
    """Divide examples by whole groups into parts whose class fractions are as close as a greedy search gets.

    The largest group comes first, ties are ordered randomly. Each goes where it reduces most, or increases least, the
    sum over parts and classes of (have - want)^2 / want, where the number of all examples counts as one more class.

    Args:
        labels: class labels, integers (N,).
        groups: group of each example.
        shares: wanted fraction of each part; parts with 0 get nothing.
        seed: breaks ties.
        keep_first: whether every class must occur in the first part, which is trained on. A group that is the last one
            with a class missing there goes there.

    Returns:
        The part of each example, int64 (N,).
    """
    names, group = np.unique(np.asarray(groups, object).astype(str), return_inverse=True)
    _, label = np.unique(labels, return_inverse=True)
    classes = int(label.max()) + 1
    pairs, counts = np.unique(group * classes + label, return_counts=True)
    starts = np.searchsorted(pairs // classes, np.arange(len(names) + 1))
    sizes = np.bincount(group, minlength=len(names))
    holding = np.bincount(pairs % classes, minlength=classes)  # groups still to come that hold the class
    wanted = np.outer(shares, np.append(np.bincount(label), len(label))).astype(np.float64)
    have = np.zeros_like(wanted)
    allowed = np.array(shares) > 0
    part_of = np.zeros(len(names), np.int64)
    for one in np.lexsort((permutation(len(names), seed, FOLDS, 1), -sizes)).tolist():
        own = slice(starts[one], starts[one + 1])
        columns, added = np.append(pairs[own] % classes, classes), np.append(counts[own], sizes[one])
        holding[columns[:-1]] -= 1
        with np.errstate(divide="ignore", invalid="ignore"):
            cost = (added * (2 * (have[:, columns] - wanted[:, columns]) + added) / wanted[:, columns]).sum(axis=1)
            fill = have[:, -1] / wanted[:, -1]
        may = allowed.copy()
        if keep_first and allowed[0] and ((holding == 0) & (have[0, :-1] == 0))[columns[:-1]].any():
            may[:] = False
            may[0] = True
        part = min(np.flatnonzero(may).tolist(), key=lambda p: (cost[p], fill[p], p))
        part_of[one] = part
        have[part, columns] += added
    return part_of[group]
