"""``pairs:LEFT+RIGHT``: examples of two sources as pairs with the same class, such as ``pairs:digits+wav:PATH``.

``image`` is an example of the left source, ``other`` an example of the right source with the same class: pairs are
**composed**, and nothing but the class belongs together. Both must have classes with the same names.

A source without its own splits is divided by class: 70% train, 10% validation, 20% test; so an example of either side
is in only one split. Each split has as many pairs of a class as the side with more examples of it; the examples of the
other side are all used equally often. The pairs depend on the seed, 0 unless the source ends with ``@SEED``; ``@all``
makes a single split of everything, to evaluate on. For new pairs in every epoch, use the transform
``shuffle_partners``.

Settings such as ``data.class_pattern`` and ``data.signal_length`` apply to the sides whose kind of source uses them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from resnet_jax.data.example import INPUTS, OTHER, Example, Spec
from resnet_jax.data.reading import OPTIONAL, Reading
from resnet_jax.data.records import Dataset, Source, Subset
from resnet_jax.data.registry import KINDS, find_source, register_source
from resnet_jax.data.rng import philox
from resnet_jax.data.stratified import split_indices
from resnet_jax.errors import DataError, UsageError

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
"""How a source without splits is divided."""
PAIRS = 0x70616972
"""Random stream for the partners."""


@dataclass(frozen=True, eq=False)
class PairRecords:
    """Pairs of examples of two sources.

    Attributes:
        left: source of ``image``, and of all further fields.
        right: source whose inputs are ``other``.
        partners: int64 (N, 2), an index into each.
        labels: int32 (N,).
    """

    left: Source
    right: Source
    partners: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.partners)

    def __getitem__(self, index: int, /) -> Example:
        left, right = self.partners[index].tolist()
        return {**self.left[left], OTHER: self.right[right]["image"], "label": self.labels[index]}

    @property
    def spec(self) -> Spec:
        return {**self.left.spec, OTHER: self.right.spec["image"]}

    def describe(self, index: int) -> str:
        left, right = self.partners[index].tolist()
        return f"{self.left.describe(left)} with {self.right.describe(right)}"


def paired(left: Source, right: Source, labels: np.ndarray, seed: int, *, apart: bool = False) -> PairRecords:
    """Return pairs of examples of the same class, in which examples of a class are used equally often, up to one.

    Args:
        left: N examples.
        right: M examples.
        labels: int32 (M,), labels of the right source in the numbering of the left.
        seed: random seed.
        apart: left and right are the same examples, and none may be its own partner.

    Raises:
        DataError: if only one side has a class, or with ``apart`` a class has a single example.
    """
    rows, found = [], []
    for label in np.unique(left.labels).tolist():
        ours, theirs = np.flatnonzero(left.labels == label), np.flatnonzero(labels == label)
        if not len(theirs) or (apart and len(ours) < 2):
            raise DataError(f"class {label} has {len(ours)} examples on the left and {len(theirs)} on the right")
        count = max(len(ours), len(theirs))
        columns = [_repeated(one, count, seed, 2 * label + side) for side, one in enumerate((ours, theirs))]
        if apart:  # a permutation, and the same moved by one
            columns[1] = np.roll(columns[0], 1)
        rows.append(np.stack(columns, axis=1))
        found.append(np.full(count, label, np.int32))
    order = np.argsort(np.concatenate(rows)[:, 0], kind="stable")
    return PairRecords(left, right, np.concatenate(rows)[order], np.concatenate(found)[order])


def _repeated(indices: np.ndarray, count: int, seed: int, index: int) -> np.ndarray:
    """Return ``count`` of the indices, in passes over all of them, each pass in a random order."""
    passes = -(-count // len(indices))
    orders = [
        np.argsort(philox(seed, PAIRS, one, index).random_raw(len(indices)), kind="stable") for one in range(passes)
    ]
    return np.concatenate([indices[order] for order in orders])[:count]


@register_source("pairs", form="pairs:LEFT+RIGHT or pairs:LEFT+RIGHT@SEED", uses=OPTIONAL)
def load_pairs(location: str, reading: Reading, /) -> Dataset:
    """Open both sources and pair their examples.

    Raises:
        UsageError: for an unreadable location, or a setting that neither source uses.
        DataError: as raised by the sources; or if the two sides have classes with different names.
    """
    from resnet_jax.data.source import load_dataset

    *sides, end = sides_of(location)
    uses: list[set[str]] = [
        set(kind.uses) if (kind := find_source(side.partition(":")[0])) else set(OPTIONAL) for side in sides
    ]
    for name in OPTIONAL:
        if getattr(reading, name) != getattr(Reading(), name) and not any(name in used for used in uses):
            raise UsageError(f"data.{name} {getattr(reading, name)} is not used by {' or '.join(sides)}")
    left, right = (
        load_dataset(side, _of_side(reading, used, channels))
        for side, used, channels in zip(sides, uses, (reading.channels, None), strict=True)
    )
    for side in (left, right):
        if side.kind != "class":
            raise DataError(f"{side.name}: pairs are of one class, and these examples have no class each")
    if set(left.class_names) != set(right.class_names):
        ours, theirs = (", ".join(side.class_names[:12]) for side in (left, right))
        raise DataError(f"pairs need the same classes on both sides: {left.name} has {ours}; {right.name} has {theirs}")
    for side in (left, right):
        meaning = next(iter(side.splits.values())).spec["image"].meaning
        if meaning not in INPUTS:
            raise DataError(f"{side.name}: its inputs are {meaning}, which no network takes")
    seed, renamed = int(end or 0) if end != "all" else 0, [left.class_names.index(name) for name in right.class_names]
    parts = [_divided(side, seed, whole=end == "all") for side in (left, right)]
    splits = [name for name in ("all", *SHARES) if all(name in part for part in parts)]
    if not {"train", "all"} & set(splits) or len(splits) < len(set(parts[0]) | set(parts[1])) - 1:
        found = " and ".join(", ".join(part) for part in parts)
        raise DataError(f"pairs:{location}: the two sides have other splits, {found}")
    made = {
        name: paired(parts[0][name], parts[1][name], np.array(renamed, np.int32)[parts[1][name].labels], seed)
        for name in splits
    }
    if "all" not in made and not {"val", "test"} & set(made):
        raise DataError(f"pairs:{location}: there is no test or val split that both sides have")
    notes = (f"pairs composed by class, seed {seed}: {_counts(made)}", *left.notes, *right.notes)
    return Dataset(f"pairs:{location}", made, left.class_names, notes, least_classes=reading.least_classes)


def _counts(made: dict[str, PairRecords]) -> str:
    said = []
    for name, records in made.items():
        left, right = (len(np.unique(records.partners[:, side])) for side in (0, 1))
        said.append(f"{len(records):,} {name} of {left:,} and {right:,}")
    return "; ".join(said)


def _of_side(reading: Reading, uses: set[str], channels: int | None) -> Reading:
    default = Reading()
    unused = {name: getattr(default, name) for name in OPTIONAL if name not in uses}
    return replace(reading, **unused, channels=channels)


def _divided(dataset: Dataset, seed: int, *, whole: bool) -> dict[str, Source]:
    """Return the splits of a source, its own if it has any; with ``whole`` everything as one."""
    if whole:
        if "all" not in dataset.splits:
            raise UsageError(f"{dataset.name} has splits of its own: leave @all out")
        return {"all": dataset.splits["all"]}
    if "all" not in dataset.splits:
        return dict(dataset.splits)
    records = dataset.splits["all"]
    parts = split_indices(records.labels, SHARES, seed)
    return {name: Subset(records, part) for name, part in parts.items()}


def sides_of(location: str) -> tuple[str, str, str]:
    """Return both sources of a location, and the seed or ``all`` at its end, if any.

    It is split at the first + that is followed by a kind of source.

    Raises:
        UsageError: if it is not two sources.

    >>> sides_of("digits+npz:a+b.npz@3")
    ('digits', 'npz:a+b.npz', '3')
    """
    found = re.fullmatch(r"(.*?)(?:@(\d+|all))?", location, re.DOTALL)
    assert found is not None
    location, end = found[1], found[2] or ""
    known = "|".join(sorted(re.escape(kind) for kind in KINDS))
    match = re.search(rf"\+(?=(?:{known})(?::|$))", location)
    if match is None:
        raise UsageError(
            f"data source pairs:{location} is not complete; write pairs:LEFT+RIGHT, two sources such as "
            "pairs:digits+wav:PATH"
        )
    return location[: match.start()], location[match.end() :], end
