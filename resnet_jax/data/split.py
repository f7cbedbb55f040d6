"""Who is trained on, who is selected on, and who is only reported on.

Splits of classes are stratified: every class keeps its share of every split, to within rounding, and at least one
example to train on. Several labels an example, and values, are divided at random. Splits depend on the labels (or their
number), the fractions and the seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from resnet_jax.data.layout import shortened
from resnet_jax.data.records import Dataset, Source, Subset
from resnet_jax.data.rng import SPLIT, permutation
from resnet_jax.errors import DataError, UsageError
from resnet_jax.tasks.facts import LabelKind


@dataclass(frozen=True, eq=False)
class Splits:
    """The three roles of data.

    Attributes:
        train: parameters are fitted on it.
        val: models and settings are chosen on it; None if not wanted.
        test: read once, for the figure that is reported; None if not wanted.
        notes: what a person should know before the figures, one line each: those of the data set, and how it was
        divided.
        kind: what the labels are.
    """

    train: Source
    val: Source | None
    test: Source | None
    notes: tuple[str, ...] = ()
    kind: LabelKind = "class"


def split_indices(labels: np.ndarray, fractions: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """Divide 0..N-1 into disjoint parts that cover it and keep the class proportions.

    A part gets round(fraction * N) examples, the first one what is left. Each later part takes from class c
    its proportional share of what is still there, rounded up or down (largest remainders up, ties at random). No class
    gives its last example to a later part: what it would have given comes from the classes that have most left.

    Args:
        labels: integers (N,).
        fractions: part name -> fraction in [0, 1]; they add up to 1.
        seed: which of the possible divisions.

    Returns:
        Part name -> sorted indices, int64. A part of fraction 0 is empty.

    Raises:
        UsageError: the fractions are negative or do not add up to 1, or the seed is negative.
        DataError: a part of a fraction above 0 would be empty, or the classes are too small for what is held out.

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
    """Refuse to hold out more than there is when every class keeps an example."""
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
        DataError: a split would be empty, or the classes are too small for what is held out.
    """
    splits, names = dataset.splits, {split: dataset.origins.get(split, split) for split in dataset.splits}
    notes = [*dataset.notes, *_without_images(dataset)]
    if "val" in splits and "test" in splits:
        said = f"splits: train from {names['train']}, val from {names['val']}, test from {names['test']}"
        return Splits(splits["train"], splits["val"], splits["test"], (*notes, said), dataset.kind)
    if "all" in splits:
        source, test = splits["all"], None
        fractions = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
    else:
        held_out = "test" if "test" in splits else "val"
        source, test = splits["train"], splits[held_out]
        fractions = {"train": 1 - val_fraction, "val": val_fraction}
        by_class = " by class" if dataset.kind == "class" else ""
        cut = f" but {val_fraction * 100:g} %{by_class}, which are val" if val_fraction else ""
        final = ", the final test: it decides nothing" if held_out == "val" else ""
        notes.append(f"splits: train from {names['train']}{cut}; test from {names[held_out]}{final}")
    if fractions["train"] <= 0:
        raise UsageError(f"val_fraction {val_fraction:g} and test_fraction {test_fraction:g} leave nothing to train on")
    try:
        strata = source.labels if dataset.kind == "class" else np.zeros(len(source), np.int32)
        indices = split_indices(strata, fractions, seed)
    except DataError as error:
        raise DataError(f"{dataset.name}: {error}") from error
    parts = {name: Subset(source, chosen) for name, chosen in indices.items() if len(chosen)}
    result = Splits(parts["train"], parts.get("val"), parts.get("test", test))
    if "all" in splits and result.test is not None and dataset.kind == "class":
        notes += _untested(result.test, source, dataset.class_names)
    return replace(result, notes=tuple(notes), kind=dataset.kind)


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
    """Say which classes are in the source and have no test image."""
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
    """Refuse splits in which a class is validated or tested on that was never trained on.

    Args:
        splits: as :func:`resolve_splits` gives them.
        class_names: of the data set.

    Raises:
        DataError: such a class, or a class number that no image has at all although classes are only numbered.
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
        UsageError: the source has several splits; the roles are then its own (`resolve_splits`).
    """
    if "all" not in dataset.splits:
        raise UsageError(f"{dataset.name} has the splits {', '.join(dataset.splits)}: name the one to evaluate")
    return dataset.splits["all"]
