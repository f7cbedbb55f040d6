"""How a data set is split if its source does not define splits: what is held out, and what is left to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

import numpy as np
from annotated_types import Interval

from resnet_jax.data.folds import fold_of, parse_fold
from resnet_jax.data.groups import check_pattern, divide_groups
from resnet_jax.data.names import Told, hashed
from resnet_jax.data.stratified import split_indices
from resnet_jax.data.subset import check_subset
from resnet_jax.errors import DataError
from resnet_jax.fields import BelowOne, check_fields

Method = Literal["stratified", "hash"]


@dataclass(frozen=True)
class Division:
    """How a data set is split, the same for all runs that are compared.

    ==================================  ==========================================================  ====================
                                        stratified                                                  hash
    ==================================  ==========================================================  ====================
    an example's part goes by           the labels of all examples, and where it stands among them  its name alone
    sizes, and shares of classes        exact, to within rounding                                   about right
    when examples are added or removed  all parts change                                            the others stay
                                                                                                    where they are
    with groups                         whole groups, as near to the shares as they come            a group's part goes
                                                                                                    by its name
    ==================================  ==========================================================  ====================

    Attributes:
        val_fraction: fraction of the training examples held out for validation; of all examples if there is no test
            split.
        test_fraction: fraction held out for the test if the source has no test split.
        seed: selects one of the possible splits.
        method: ``stratified`` or ``hash``.
        group_by: a regular expression with one group that finds an example's group in its name, such as a patient or
            speaker, or ``group`` for groups known to the source; all examples of a group are in the same part.
        fold: ``i/k``: validate on fold i of k of the training and validation examples, counted from 1, instead of
            ``val_fraction``.
        subset: the part of the training examples to train on: a fraction if below 1, otherwise a number per class.

    Raises:
        UsageError: for impossible values.
    """

    val_fraction: BelowOne = 0.1
    test_fraction: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.2
    seed: int = 0
    method: Method = "stratified"
    group_by: str | None = None
    fold: str | None = None
    subset: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.group_by is not None:
            check_pattern(self.group_by)
        if self.fold is not None:
            parse_fold(self.fold)
        if self.subset is not None:
            check_subset(self.subset)

    @property
    def holds_out_val(self) -> bool:
        """Whether there is a validation part."""
        return self.val_fraction > 0 or self.fold is not None

    @property
    def by_names(self) -> bool:
        """Whether the names of examples matter, and not only their labels."""
        return self.method == "hash" or self.group_by is not None


@dataclass(frozen=True, eq=False)
class Members:
    """The examples that are split.

    Attributes:
        labels: class labels; zeros if there are none, (N,).
        told: what distinguishes them, for a split by hash.
        by: what that is.
        groups: the group of each, if that matters.
    """

    labels: np.ndarray
    told: Sequence[str | bytes] | None = None
    by: Told = "positions"
    groups: Sequence[str] | None = None

    def at(self, indices: np.ndarray) -> Members:
        """Return some of them."""
        told = None if self.told is None else [self.told[int(i)] for i in indices.tolist()]
        groups = None if self.groups is None else [self.groups[int(i)] for i in indices.tolist()]
        return Members(self.labels[indices], told, self.by, groups)

    @property
    def units(self) -> Sequence[str | bytes]:
        """What is hashed: the groups, or what distinguishes the examples."""
        found = self.told if self.groups is None else self.groups
        assert found is not None
        return found


def divide_members(members: Members, division: Division, fractions: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Split examples into disjoint parts that cover them.

    Args:
        members: the examples to split.
        division: how to split them.
        fractions: part -> its fraction, ``train`` first; they sum to 1. A ``fold`` determines ``val`` by itself.

    Returns:
        Part -> sorted indices, int64; empty for a fraction of 0.

    Raises:
        DataError: if a part would be empty.
    """
    seed = division.seed
    match division.method:
        case "stratified" if members.groups is None:
            parts = split_indices(members.labels, fractions, seed)
        case "stratified":
            shares = list(fractions.values())
            chosen = divide_groups(members.labels, members.groups or (), shares, seed, keep_first=True)
            parts = {name: np.flatnonzero(chosen == number) for number, name in enumerate(fractions)}
        case "hash":
            parts = _hashed_parts(members, fractions, seed)
        case _:
            assert_never(division.method)
    if division.fold is not None:
        number, count = parse_fold(division.fold)
        pool = np.sort(np.concatenate([parts["train"], parts["val"]]))
        folds = _folds(members.at(pool), division, count)
        parts |= {"train": pool[folds != number - 1], "val": pool[folds == number - 1]}
    for name, share in fractions.items():
        wanted = share > 0 or (name == "val" and division.fold is not None)
        if wanted and not len(parts[name]):
            raise DataError(_empty(name, members, division))
    return parts


def _hashed_parts(members: Members, fractions: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """Take the last part first, so that the test part does not depend on the validation fraction."""
    first, *others = fractions
    left, share, parts = np.ones(len(members.labels), bool), 1.0, {}
    for name in reversed(others):
        chosen = left & (hashed(members.units, seed, name) < fractions[name] / share)
        parts[name], left, share = np.flatnonzero(chosen), left & ~chosen, share - fractions[name]
    return {first: np.flatnonzero(left), **{name: parts[name] for name in others}}


def _folds(members: Members, division: Division, count: int) -> np.ndarray:
    """Return the fold of every example, 0 .. count - 1."""
    if division.method == "hash":
        return (hashed(members.units, division.seed, "fold") * count).astype(np.int64)
    if members.groups is not None:
        shares = [1 / count] * count
        return divide_groups(members.labels, members.groups, shares, division.seed, keep_first=False)
    return fold_of(members.labels, count, division.seed)


def _empty(name: str, members: Members, division: Division) -> str:
    if members.groups is None:
        by = f"{len(members.labels):,} examples"
        advice = "data.split stratified keeps to the shares" if division.method == "hash" else "use more data"
    else:
        by = f"{len(set(members.groups)):,} groups of {len(members.labels):,} examples"
        advice = f"data.group_by {division.group_by!r} makes groups that are too few or too large"
    fold = "" if division.fold is None else f", data.fold {division.fold}"
    return f"split {name!r} would be empty ({by}{fold}); {advice}, or larger fractions or fewer folds"
