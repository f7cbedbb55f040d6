"""Records: images and labels by index; and a data set: named splits of records with one list of classes.

Everything that holds examples (arrays, folders, TFDS, a subset of any of these) is a `Records`; everything
above reads only this protocol.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from resnet_jax.data.arrays import checked_images, checked_labels, class_hint
from resnet_jax.errors import DataError


@runtime_checkable
class Records(Protocol):
    """Labelled images by index. Reading is thread-safe, and the same index always gives the same image."""

    @property
    def labels(self) -> np.ndarray:
        """All labels, shape (N,), int32 for classification."""
        ...

    def __len__(self) -> int:
        """Return the number of examples, N."""
        ...

    def image(self, index: int) -> np.ndarray:
        """Return image ``index``: uint8 (height, width, channels), 1 (grey) or 3 (RGB) channels."""
        ...

    def describe(self, index: int) -> str:
        """Return where example ``index`` comes from, for messages: its file, or its index and source."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayRecords:
    """Records held in memory.

    Attributes:
        images: uint8 (N, H, W, C), C = 1 or 3; (N, H, W) is taken as one channel.
        labels: (N,) integers, kept as int32. Floating labels of shape (N, ...) are kept as float32, for
            regression from Python; a `Dataset` has classes and does not take them.
        name: what messages call this array.
        origin: the records these pixels were decoded from, if any; it then answers `describe`.

    Raises:
        DataError: wrong kind, rank, channels or length, or nothing in it.

    >>> records = ArrayRecords(np.zeros((5, 8, 8), np.uint8), np.arange(5), name="mine")
    >>> records.images.shape, records.labels.dtype.name, records.describe(3)
    ((5, 8, 8, 1), 'int32', 'index 3 of mine')
    """

    images: np.ndarray
    labels: np.ndarray
    name: str = "array"
    origin: Records | None = None

    def __post_init__(self) -> None:
        images, labels = np.asarray(self.images), np.asarray(self.labels)
        if images.ndim == 3 and images.dtype == np.uint8:
            images = images[..., None]
        object.__setattr__(self, "images", checked_images(images, self.name))
        object.__setattr__(self, "labels", checked_labels(labels, len(images), self.name))

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> np.ndarray:
        return self.images[index]

    def describe(self, index: int) -> str:
        return self.origin.describe(index) if self.origin is not None else f"index {index} of {self.name}"


@dataclass(frozen=True, eq=False)
class Subset:
    """Some of the records, in the order of ``indices``; nothing is copied but the labels.

    >>> records = ArrayRecords(np.zeros((5, 8, 8), np.uint8), np.arange(5))
    >>> part = Subset(records, np.array([4, 0]))
    >>> len(part), part.labels.tolist(), part.describe(0)
    (2, [4, 0], 'index 4 of array')
    """

    records: Records
    indices: np.ndarray
    labels: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", self.records.labels[self.indices])

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> np.ndarray:
        return self.records.image(int(self.indices[index]))

    def describe(self, index: int) -> str:
        return self.records.describe(int(self.indices[index]))


def gather(records: Records, indices: np.ndarray) -> np.ndarray | None:
    """Return the images at ``indices`` as one array if the records are in memory, else None.

    Args:
        records: any records.
        indices: (B,) integers.

    Returns:
        A new uint8 array (B, H, W, C), or None when images would have to be read one by one.
    """
    if isinstance(records, ArrayRecords):
        return records.images[indices]
    if isinstance(records, Subset):
        return gather(records.records, records.indices[indices])
    return None


def in_memory(records: Records) -> bool:
    """Return whether `gather` can answer: the pixels of all records lie in one array."""
    return in_memory(records.records) if isinstance(records, Subset) else isinstance(records, ArrayRecords)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Named splits of records over one list of classes; a `Dataset` that exists has valid labels.

    Attributes:
        name: the spec it was loaded from.
        splits: ``{"all": ...}``, or ``"train"`` with ``"test"`` or ``"val"`` or both.
        class_names: one name a class, in label order.
        notes: what a person should know before the figures: what was left out, what was taken for what; one line each.
        origins: split -> how the source calls it, where it has splits of its own.
        least_classes: how many it must have: two to tell apart, one for images that a network is evaluated on.

    Raises:
        DataError: other splits, fewer classes, a name given twice, or a label that is not an integer in
        0..K-1.
    """

    name: str
    splits: Mapping[str, Records]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
    least_classes: int = 2

    def __post_init__(self) -> None:
        held_out = set(self.splits) - {"train"}
        if set(self.splits) != {"all"} and not ("train" in self.splits and held_out and held_out <= {"val", "test"}):
            found = ", ".join(self.splits) or "none"
            raise DataError(f"{self.name}: the splits are {found}; need 'all', or 'train' with 'test' or 'val' or both")
        if len(self.class_names) < self.least_classes:
            found = ", ".join(self.class_names) or "none"
            raise DataError(f"{self.name}: the classes are {found}; need at least two to tell apart")
        twice = sorted(name for name, count in Counter(self.class_names).items() if count > 1)
        if twice:
            raise DataError(
                f"{self.name}: {len(twice)} class names are given twice, {twice[0]!r} for one; every class needs a "
                "name of its own"
            )
        for split, records in self.splits.items():
            check_labels(records, self.num_classes, f"{self.name}, split {split!r}")

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.class_names)


def check_labels(records: Records, num_classes: int, where: str) -> None:
    """Refuse records whose labels are not the integers 0..K-1.

    Raises:
        DataError: with the first such label, and where it is.
    """
    labels = records.labels
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{where}: labels are {labels.dtype} {labels.shape}, but classes are integers 0..{num_classes - 1}"
            f"{class_hint(labels)}; for regression use the Python API: ArrayRecords(images, labels) and batches of it, "
            "without a Dataset"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        first = int(outside[0])
        hint = "; classes are counted from 0: use y - 1" if labels.min() == 1 and labels.max() == num_classes else ""
        raise DataError(
            f"{where}: label {labels[first]} at index {first} ({records.describe(first)}) is outside "
            f"0..{num_classes - 1}, the range of {num_classes} classes; {len(outside)} such labels in all{hint}"
        )
