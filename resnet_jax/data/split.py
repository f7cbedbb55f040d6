"""Which examples are trained on, selected on, and only reported on.

By default, splits of classes are stratified: every class keeps its fraction of every split, to within rounding, and at
least one training example; multi-label examples and values are split at random.
:class:`resnet_jax.data.division.Division` has other ways.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from resnet_jax.data.division import Division, Members, divide_members
from resnet_jax.data.groups import groups_by
from resnet_jax.data.layout import shortened
from resnet_jax.data.names import digest_of, identities
from resnet_jax.data.records import Dataset, Source, Subset, groups_of
from resnet_jax.data.stratified import split_indices as split_indices
from resnet_jax.data.subset import subset_of
from resnet_jax.errors import DataError, UsageError
from resnet_jax.tasks.facts import LabelKind


@dataclass(frozen=True, eq=False)
class Splits:
    """The three roles of data.

    Attributes:
        train: the examples that parameters are fitted on.
        val: the examples that models and settings are selected on; None if not wanted.
        test: read once, for the reported result; None if not wanted.
        notes: what a user should know before seeing results, one line each: notes of the data set, and how it was
        split.
        kind: what the labels are.
        members: digest of which examples are where, if they were split by their names; otherwise empty.
    """

    train: Source
    val: Source | None
    test: Source | None
    notes: tuple[str, ...] = ()
    kind: LabelKind = "class"
    members: str = ""


def resolve_splits(dataset: Dataset, division: Division | None = None, **wanted: Any) -> Splits:
    """Give every example of a data set one role, holding out the splits that the source does not have.

    ================  ========  =========================  =================================================
    the source has    train     val                        test
    ================  ========  =========================  =================================================
    all               the rest  ``val_fraction`` of all    ``test_fraction`` of all
    train, test       the rest  ``val_fraction`` of train  test
    train, val        the rest  ``val_fraction`` of train  **val**: what is reported must not be selected on
    train, val, test  train     val                        test
    ================  ========  =========================  =================================================

    With a ``fold``, val is that part of what would be train and val; a source that has both is rejected. With a
    ``subset``, train is a part of what it would be.

    Args:
        dataset: the data set to split.
        division: how to split it.
        wanted: fields of it by name, such as ``val_fraction=0.2``.

    Raises:
        UsageError: for fractions that leave nothing to train on, or folds of a source with its own val split.
        DataError: if a split would be empty, the classes are too small for what is held out, or names have no group.
    """
    division = dataclasses.replace(division or Division(), **wanted)
    notes = [*dataset.notes, *_without_images(dataset)]
    try:
        pools = {split: _members(dataset, split, division) for split in dataset.splits}
        chosen, lines = _roles(dataset, division, pools)
        if division.subset is not None:
            chosen["train"], line = _part(dataset, division, pools, chosen["train"])
            lines.append(line)
    except DataError as error:
        said = str(error)
        raise DataError(said if said.startswith(f"{dataset.name}: ") else f"{dataset.name}: {said}") from error
    parts = {role: _records(dataset, split, indices) for role, (split, indices) in chosen.items()}
    result = Splits(parts["train"], parts.get("val"), parts.get("test"), kind=dataset.kind)
    if "all" in dataset.splits and result.test is not None and dataset.kind == "class":
        lines += _untested(result.test, dataset.splits["all"], dataset.class_names)
    lines += _said_of_groups(dataset.splits, division, pools, chosen)
    members = ""
    if division.by_names:
        members = digest_of(_at(pools[split], indices).told or () for split, indices in chosen.values())
    return replace(result, notes=(*notes, *lines), members=members)


#: Which split of the source a role is taken from, and which of its examples; None for all.
Chosen = tuple[str, "np.ndarray | None"]


def _members(dataset: Dataset, split: str, division: Division) -> Members:
    """Return what determines how a split of the source is divided."""
    source = dataset.splits[split]
    labels = source.labels if dataset.kind == "class" else np.zeros(len(source), np.int32)
    groups = None if division.group_by is None else groups_by(source, dataset.name, division.group_by)
    if not division.by_names:
        return Members(labels)
    told, by = identities(source, dataset.name)
    return Members(labels, told, by, groups)


def _roles(dataset: Dataset, division: Division, pools: Mapping[str, Members]) -> tuple[dict[str, Chosen], list[str]]:
    """Return the roles in the order train, val, test, and notes on them."""
    splits, names = dataset.splits, {split: dataset.origins.get(split, split) for split in dataset.splits}
    if "val" in splits and "test" in splits:
        if division.fold is not None:
            raise UsageError(
                f"data.fold {division.fold}: {dataset.name} has a split for validation of its own, which folds of the "
                "training examples would leave unused: leave data.fold out, or name the training examples alone as "
                "the source"
            )
        said = f"splits: train from {names['train']}, val from {names['val']}, test from {names['test']}"
        return {role: (role, None) for role in ("train", "val", "test")}, [said]
    val, test, said = division.val_fraction, division.test_fraction, []
    if "all" in splits:
        pool, given = "all", {}
        fractions = {"train": 1 - val - test, "val": val, "test": test}
    else:
        pool, held_out = "train", "test" if "test" in splits else "val"
        given: dict[str, Chosen] = {"test": (held_out, None)}
        fractions = {"train": 1 - val, "val": val}
        final = ", the final test, used for no decision" if held_out == "val" else ""
        cut = _cut(division, dataset.kind)
        said.append(f"splits: train from {names['train']}{cut}; test from {names[held_out]}{final}")
    if fractions["train"] <= 0:
        raise UsageError(f"val_fraction {val:g} and test_fraction {test:g} leave nothing to train on")
    members = pools[pool]
    parts = divide_members(members, division, fractions)
    chosen: dict[str, Chosen] = {role: (pool, indices) for role, indices in parts.items() if len(indices)}
    if division != Division(val, test, division.seed, subset=division.subset):
        said.append(_said_of_parts(members, division, parts))
    return {**chosen, **given}, said


def _cut(division: Division, kind: LabelKind) -> str:
    """Describe what is cut from the training examples of a source to become val."""
    if division.fold is not None:
        return f" but fold {division.fold}, which is val"
    if not division.val_fraction:
        return ""
    by_class = " by class" if kind == "class" and not division.by_names else ""
    return f" but {division.val_fraction * 100:g} %{by_class}, which are val"


def _said_of_parts(members: Members, division: Division, parts: Mapping[str, np.ndarray]) -> str:
    """Describe how examples were divided, and the resulting sizes of the parts."""
    total = len(members.labels)
    sizes = [f"{name} {len(part):,} ({len(part) / total * 100:.1f} %)" for name, part in parts.items() if len(part)]
    how = f"a hash of their {members.by}" if division.method == "hash" else "class, as evenly as possible"
    if members.groups is not None:
        how = (
            "a hash of their groups"
            if division.method == "hash"
            else "whole groups, with class shares as even as possible"
        )
    fold = "" if division.fold is None else f"; val is fold {division.fold} of what is not test"
    warning = ""
    if division.method == "hash" and members.by == "positions" and members.groups is None:
        warning = "; examples have no names here: adding some at the end leaves the others where they are"
    return f"{total:,} examples divided by {how}: {', '.join(sizes)}{fold}{warning}"


def _said_of_groups(
    splits: Mapping[str, Source], division: Division, pools: Mapping[str, Members], chosen: Mapping[str, Chosen]
) -> list[str]:
    """Describe how many groups each part has; and whether a split of the source shares groups with another."""
    if division.group_by is None:
        known = any(groups_of(source) is not None for source in splits.values())
        divided = any(indices is not None for _, indices in chosen.values())
        said = "the source knows groups of examples: data.group_by group keeps each in one part, which is not asked for"
        return [said] if known and divided else []
    found = {role: _at(pools[split], indices).groups or () for role, (split, indices) in chosen.items()}
    counts = ", ".join(f"{role} {len(set(groups)):,}" for role, groups in found.items())
    said = [f"groups of examples, by data.group_by {division.group_by}: {counts}"]
    roles = [role for role in ("train", "val", "test") if role in found]
    for one, other in itertools.combinations(roles, 2):
        both = set(found[one]) & set(found[other])
        if both:
            examples = sum(group in both for group in found[other])
            said.append(
                f"leakage: {len(both):,} groups of {other}, {examples:,} of its {len(found[other]):,} examples, are in "
                f"{one} too, for the source divides them so: {shortened(sorted(both), 3)}"
            )
    return said


def _part(dataset: Dataset, division: Division, pools: Mapping[str, Members], train: Chosen) -> tuple[Chosen, str]:
    """Return the subset of the training examples to train on, and a description."""
    split, indices = train
    pool = pools[split]
    indices = np.arange(len(pool.labels)) if indices is None else indices
    found, is_class, size = pool.at(indices), dataset.kind == "class", division.subset
    assert size is not None
    taken = subset_of(
        found.labels,
        size,
        division.seed,
        told=found.told if division.method == "hash" else None,
        class_names=dataset.class_names if is_class else None,
    )
    counts = np.unique(found.labels[taken], return_counts=True)[1]
    fewest, most = int(counts.min()), int(counts.max())
    each = f", {f'{fewest:,}' if fewest == most else f'{fewest:,} to {most:,}'} a class" if is_class else ""
    return (split, indices[taken]), (
        f"data.subset {size:g}: trained on {len(taken):,} of {len(indices):,} training examples{each}"
    )


def _records(dataset: Dataset, split: str, indices: np.ndarray | None) -> Source:
    return dataset.splits[split] if indices is None else Subset(dataset.splits[split], indices)


def _at(members: Members, indices: np.ndarray | None) -> Members:
    return members if indices is None else members.at(indices)


def _without_images(dataset: Dataset) -> list[str]:
    if dataset.kind in ("value", "segmentation", "boxes"):  # no class an example
        return []
    if dataset.kind == "multi-label":
        given = np.any([records.labels.any(axis=0) for records in dataset.splits.values()], axis=0)
        missing = [name for name, is_given in zip(dataset.class_names, given, strict=True) if not is_given]
        return (
            [f"{len(missing):,} of {dataset.num_classes:,} labels are never given: {shortened(missing)}"]
            if missing
            else []
        )
    seen = {int(c) for records in dataset.splits.values() for c in np.unique(records.labels)}
    missing = [name for c, name in enumerate(dataset.class_names) if c not in seen]
    return (
        [f"{len(missing):,} of {dataset.num_classes:,} classes have no image: {shortened(missing)}"] if missing else []
    )


def _untested(test: Source, source: Source, class_names: Sequence[str]) -> list[str]:
    """Describe which classes are in the source and have no test image."""
    missing = np.setdiff1d(source.labels, test.labels)
    if not len(missing):
        return []
    fewest = np.bincount(source.labels)[missing]
    sizes = "1 image each" if fewest.max() == 1 else f"at most {fewest.max():,} images each"
    total = len(np.unique(source.labels))
    return [
        f"{len(missing):,} of {total:,} classes have no test image, having {sizes}: "
        f"{shortened([class_names[int(c)] for c in missing])}"
    ]


def require_trainable(splits: Splits, class_names: Sequence[str]) -> None:
    """Reject splits in which a class that is never trained on is validated or tested on.

    Args:
        splits: as returned by :func:`resolve_splits`.
        class_names: class names of the data set.

    Raises:
        DataError: for such a class, or a class number without any image although classes are only numbered.
    """
    if splits.kind != "class":
        return
    trained = np.unique(splits.train.labels)
    for name, part in (("val", splits.val), ("test", splits.test)):
        missing = [] if part is None else np.setdiff1d(part.labels, trained)
        if len(missing):
            assert part is not None
            images = int(np.isin(part.labels, missing).sum())
            named = shortened([class_names[int(c)] for c in missing])
            raise DataError(
                f"{len(missing):,} of {len(class_names):,} classes have images in {name} ({images:,} of "
                f"{len(part):,}) and none in train: {named}; a network cannot know them: give each a training image, "
                f"or leave them out of {name}"
            )
    if tuple(class_names) == tuple(str(c) for c in range(len(class_names))):  # numbered, for want of names
        missing = sorted(set(range(len(class_names))) - set(trained.tolist()))
        if missing == [0]:
            raise DataError(
                f"labels are 1..{len(class_names) - 1}, but classes are counted from 0: save y - 1, or an array "
                f"class_names of {len(class_names)} names to keep a class 0 without images"
            )
        if missing:
            raise DataError(
                f"no image has the labels {', '.join(map(str, missing[:6]))}{', ...' if len(missing) > 6 else ''} of "
                "0.."
                f"{len(class_names) - 1}: save np.unique(y, return_inverse=True)[1] to count without gaps, or an array "
                f"class_names of {len(class_names)} names to keep them"
            )


def whole(dataset: Dataset) -> Source:
    """Return all records of a source with one split, to evaluate on every one of them.

    Raises:
        UsageError: if the source has several splits; the roles are then its own (`resolve_splits`).
    """
    if "all" not in dataset.splits:
        raise UsageError(f"{dataset.name} has the splits {', '.join(dataset.splits)}: name the one to evaluate")
    return dataset.splits["all"]
