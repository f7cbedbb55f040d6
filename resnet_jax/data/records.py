"""Sources in memory and parts of sources; and a data set: named splits of a source with one kind of label.

Everything that provides examples (arrays, folders, TFDS, a subset of any of these) is a `Source`; everything else uses
only this protocol. ``Records`` is another name for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np

from resnet_jax.data.arrays import VALUES_HINT, checked_images, checked_labels, class_hint
from resnet_jax.data.example import MEANING_OF_RANK, RESERVED, Example, Field, Meaning, Source, Spec, meaning_of
from resnet_jax.errors import DataError
from resnet_jax.tasks.facts import LabelKind

Records = Source


@dataclass(frozen=True, eq=False)
class ArrayRecords:
    """A source held in memory.

    Attributes:
        images: the inputs, of any kind that :mod:`resnet_jax.data.arrays` accepts: uint8 images (N, H, W) or (N, H, W,
            C) with 1 or 3 channels; multi-band images, signals (N, L, C) and volumes (N, D, H, W, C), also 16-bit or
            float.
        labels: (N,) integers, kept as int32: classes. Rows (N, K) of zeros and ones, or floats (N, ...), are kept as
            float32: multi-label, or values.
        name: name of this array in messages.
        origin: the source these arrays were decoded from, if any; it then answers `describe`.
        fields: further arrays (N, ...) of every example, by name.
        meaning: image, signal or volume if the shape is ambiguous.
        meanings: meanings of the further fields; otherwise derived from their names (`example.meaning_of`).
        unreadable: examples whose arrays are zeros because they could not be read, and why; accessing them raises an
            error.

    Raises:
        DataError: for an invalid kind, rank, number of channels or length, or if it is empty.

    >>> records = ArrayRecords(np.zeros((5, 8, 8), np.uint8), np.arange(5), name="mine")
    >>> records.images.shape, records.labels.dtype.name, records.describe(3)
    ((5, 8, 8, 1), 'int32', 'index 3 of mine')
    >>> {name: value.shape for name, value in records[3].items()}
    {'image': (8, 8, 1), 'label': ()}
    """

    images: np.ndarray
    labels: np.ndarray
    name: str = "array"
    origin: Source | None = None
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)
    meaning: Meaning | None = None
    meanings: Mapping[str, Meaning] = field(default_factory=dict)
    unreadable: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        images = checked_images(np.asarray(self.images), self.name, self.meaning)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", checked_labels(np.asarray(self.labels), len(images), self.name))
        for name, values in self.fields.items():
            if name in (*RESERVED, "image", "label"):
                raise DataError(f"{self.name}: a field cannot be called {name!r}, which batches use themselves")
            if len(values) != len(images):
                raise DataError(f"{self.name}: {name} is {values.dtype} {values.shape} for {len(images)} examples")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> Example:
        if index in self.unreadable:
            raise DataError(self.unreadable[index])
        further = {name: values[index] for name, values in self.fields.items()}
        return {"image": self.images[index], **further, "label": self.labels[index]}

    @property
    def spec(self) -> Spec:
        found = {"image": _field(self.images, self.meaning or MEANING_OF_RANK.get(self.images.ndim - 1, "array"))}
        for name, values in self.fields.items():
            meaning = self.meanings.get(name) or meaning_of(name, values, self.images)
            found[name] = _field(values, meaning)
        return {**found, "label": _field(self.labels, "label")}

    def image(self, index: int) -> np.ndarray:
        """Return the input of example ``index``."""
        return self.images[index]

    def describe(self, index: int) -> str:
        return self.origin.describe(index) if self.origin is not None else f"index {index} of {self.name}"


def _field(values: np.ndarray, meaning: Meaning) -> Field:
    return Field(values.shape[1:], values.dtype.name, meaning)


@dataclass(frozen=True, eq=False)
class Subset:
    """Some examples of a source, in the order of ``indices``; only the labels are copied.

    >>> records = ArrayRecords(np.zeros((5, 8, 8), np.uint8), np.arange(5))
    >>> part = Subset(records, np.array([4, 0]))
    >>> len(part), part.labels.tolist(), part.describe(0)
    (2, [4, 0], 'index 4 of array')
    """

    records: Source
    indices: np.ndarray
    labels: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", self.records.labels[self.indices])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Example:
        return self.records[int(self.indices[index])]

    @property
    def spec(self) -> Spec:
        return self.records.spec

    def image(self, index: int) -> np.ndarray:
        """Return the input of example ``index``."""
        return self[index]["image"]

    def describe(self, index: int) -> str:
        return self.records.describe(int(self.indices[index]))


def groups_of(records: Source) -> np.ndarray | None:
    """Return the group of every example, such as its patient or speaker, if the source knows it: any values, (N,)."""
    if isinstance(records, Subset):
        whole = groups_of(records.records)
        return None if whole is None else whole[records.indices]
    return getattr(records, "groups", None)


def values_of(records: Source, name: str) -> np.ndarray | None:
    """Return a further field of all examples, (N, ...), if the source has it in memory, separately or with the images.

    >>> records = ArrayRecords(np.zeros((3, 8, 8), np.uint8), np.arange(3), fields={"age": np.array([5.0, 6.0, 7.0])})
    >>> values_of(Subset(records, np.array([2, 0])), "age").tolist()
    [7.0, 5.0]
    """
    if isinstance(records, Subset):
        whole = values_of(records.records, name)
        return None if whole is None else whole[records.indices]
    return getattr(records, "fields", {}).get(name)


def gather(records: Source, indices: np.ndarray) -> Example | None:
    """Return the examples at ``indices`` stacked if the source is in memory, otherwise None.

    Args:
        records: any source.
        indices: (B,) integers.

    Returns:
        New arrays (B, ...) of all fields except the label, or None if examples would have to be read one by one.
    """
    if isinstance(records, ArrayRecords):
        found = {"image": records.images[indices]}
        for name, values in records.fields.items():
            found[name] = values[indices]
        return found
    if isinstance(records, Subset):
        return gather(records.records, records.indices[indices])
    return None


def in_memory(records: Source) -> bool:
    """Return whether `gather` works: the arrays of all examples are in memory."""
    return in_memory(records.records) if isinstance(records, Subset) else isinstance(records, ArrayRecords)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Named splits of a source with one kind of label; labels are validated on construction.

    Attributes:
        name: the spec it was loaded from.
        splits: ``{"all": ...}``, or ``"train"`` with ``"test"`` or ``"val"`` or both.
        class_names: one name per class, in label order; for multi-label one per column, for values one per target.
        notes: what a user should know before seeing results: what was left out or reinterpreted; one line each.
        origins: split -> its name in the source, if the source has splits.
        least_classes: minimum number of classes: two for training, one for images to evaluate a network on.
        kind: what the labels are. ``segmentation``: in the field of that name, the classes 0..K-1 of pixels, 255 for
            none. ``boxes``: in the fields ``boxes`` (M, 4) and ``box_label`` (M,), with the same M for all examples and
            -1 for none.

    Raises:
        DataError: for other splits, too few classes, a repeated name, or labels that are not of the kind: for classes,
        integers in 0..K-1.
    """

    name: str
    splits: Mapping[str, Source]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
    least_classes: int = 2
    kind: LabelKind = "class"

    def __post_init__(self) -> None:
        held_out = set(self.splits) - {"train"}
        if set(self.splits) != {"all"} and not ("train" in self.splits and held_out and held_out <= {"val", "test"}):
            found = ", ".join(self.splits) or "none"
            raise DataError(f"{self.name}: the splits are {found}; need 'all', or 'train' with 'test' or 'val' or both")
        what = {"multi-label": "label", "value": "target"}.get(self.kind, "class")
        if len(self.class_names) < (self.least_classes if self.kind == "class" else 1):
            found = ", ".join(self.class_names) or "none"
            if self.kind != "class":
                raise DataError(f"{self.name}: there are no names of {what}s; need one for each")
            raise DataError(f"{self.name}: the classes are {found}; need at least two to tell apart")
        twice = sorted(name for name, count in Counter(self.class_names).items() if count > 1)
        if twice:
            raise DataError(
                f"{self.name}: {len(twice)} {what} names are given twice, {twice[0]!r} for one; every {what} needs a "
                "name of its own"
            )
        for split, records in self.splits.items():
            where = f"{self.name}, split {split!r}"
            match self.kind:
                case "class":
                    check_labels(records, self.num_classes, where)
                case "multi-label":
                    check_label_rows(records, self.num_classes, where)
                case "value":
                    check_values(records, self.num_classes, where)
                case "segmentation" | "boxes":
                    check_has_field(records, self.kind, where)
                case _:
                    assert_never(self.kind)

    @property
    def num_classes(self) -> int:
        """The number of classes, labels or targets, K."""
        return len(self.class_names)


def check_has_field(records: Source, name: str, where: str) -> None:
    """Reject examples without the field that contains their labels.

    Raises:
        DataError: if there is no such field.
    """
    if name not in records.spec or (name == "boxes" and "box_label" not in records.spec):
        needed = "'segmentation'" if name == "segmentation" else "'boxes' and 'box_label'"
        raise DataError(f"{where}: the examples hold {', '.join(records.spec)}, and need {needed}")


def check_label_rows(records: Source, count: int, where: str) -> None:
    """Reject labels that are not rows of ``count`` zeros and ones.

    Raises:
        DataError: if there is such a row; the message has the first.
    """
    labels = records.labels
    if labels.ndim != 2 or labels.shape[1] != count:
        raise DataError(
            f"{where}: labels are {labels.dtype} {labels.shape}; several labels an example are rows of zeros and ones, "
            f"(N, {count}): one column for each of the {count} names"
        )
    wrong = np.flatnonzero(~np.isin(labels, (0, 1)).all(axis=1))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{where}: labels {labels[first].tolist()} at index {first} ({records.describe(first)}) are not zeros and "
            f"ones; {len(wrong)} such rows in all"
        )


def check_values(records: Source, count: int, where: str) -> None:
    """Reject labels that are not ``count`` finite numbers per example.

    Raises:
        DataError: if they are not; the message says what they are.
    """
    labels = records.labels
    if labels.shape[1:] != (count,) and not (labels.ndim == 1 and count == 1):
        raise DataError(
            f"{where}: labels are {labels.dtype} {labels.shape}, but there are names of {count} targets; need values "
            f"(N, {count})"
        )
    wrong = np.flatnonzero(~np.isfinite(labels.reshape(len(labels), -1)).all(axis=1))
    if len(wrong):
        raise DataError(f"{where}: the value at index {wrong[0]} ({records.describe(int(wrong[0]))}) is not finite")


def check_labels(records: Source, num_classes: int, where: str) -> None:
    """Reject records whose labels are not the integers 0..K-1.

    Raises:
        DataError: if there is such a label; the message has the first, and where it is.
    """
    labels = records.labels
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{where}: labels are {labels.dtype} {labels.shape}, but classes are integers 0..{num_classes - 1}"
            f"{class_hint(labels)}; {VALUES_HINT}"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        first = int(outside[0])
        hint = "; classes are counted from 0: use y - 1" if labels.min() == 1 and labels.max() == num_classes else ""
        raise DataError(
            f"{where}: label {labels[first]} at index {first} ({records.describe(first)}) is outside "
            f"0..{num_classes - 1}, the range of {num_classes} classes; {len(outside)} such labels in all{hint}"
        )
