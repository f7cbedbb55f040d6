"""``array_record:PATH``: a copy of any data set as one file (`resnet-jax data convert`), with random access.

The file is self-describing, so it may be moved and renamed: it contains the splits, class names, kind of labels,
groups, the meaning of every field, and notes about the source it was copied from. Opening it reads a header and the
labels. Image files are stored unchanged and decoded on access, and each record is verified against its checksum.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_jax.data.decode import check_channels, to_channels
from resnet_jax.data.encoded import decode_file
from resnet_jax.data.example import Example, Field, Spec, spec_of
from resnet_jax.data.reading import Orientation, Pixels, Reading
from resnet_jax.data.record_file import RecordFile
from resnet_jax.data.record_format import Header, StoredField, StoredSplit, from_npy, unpack
from resnet_jax.data.records import Dataset, Records
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError, UsageError


@dataclass(frozen=True, eq=False)
class StoredRecords:
    """One split of the file.

    Attributes:
        file: the open file.
        start: the record of its first example.
        split: the header's description.
        labels: (N, ...), as in every source.
        channels: 1 or 3 for images, 0 for the stored channels.
        pixels: ``uint8``, or ``stored`` for the contents of image files.
        orientation: ``stored``, or ``exif`` to rotate image files upright.
        groups: (N,) of any values, if the source has them.
    """

    file: RecordFile
    start: int
    split: StoredSplit
    labels: np.ndarray
    channels: int
    pixels: Pixels = "uint8"
    orientation: Orientation = "stored"
    groups: np.ndarray | None = None

    @property
    def encoded_bytes(self) -> int:
        """The size of all examples in bytes."""
        return self.split.encoded_bytes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> Example:
        values, origin = self._read(index)
        where = self._where(index, origin)
        found = {stored.name: self._array(stored, values[stored.name], where) for stored in self.split.fields}
        return {**found, "label": self.labels[index]}

    @property
    def spec(self) -> Spec:
        found = {stored.name: self._field(stored) for stored in self.split.fields}
        return {**found, "label": Field(self.labels.shape[1:], self.labels.dtype.name, "label")}

    def image(self, index: int) -> np.ndarray:
        """Return the input of example ``index``."""
        return self[index]["image"]

    def describe(self, index: int) -> str:
        origin = ""
        with contextlib.suppress(DataError):
            origin = self._read(index)[1]
        return self._where(index, origin)

    def _read(self, index: int) -> tuple[dict[str, np.ndarray | bytes], str]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)}")
        return unpack(self.split.fields, self.file[self.start + index], self._where(index, ""))

    def _where(self, index: int, origin: str) -> str:
        return f"index {index} of split {self.split.name!r} of {self.file.path}" + (origin and f" ({origin})")

    def _array(self, stored: StoredField, value: np.ndarray | bytes, where: str) -> np.ndarray:
        if isinstance(value, bytes):
            return decode_file(value, self.channels, where, self.pixels, self.orientation)
        if stored.name == "image" and self.channels and value.shape[-1] != self.channels:
            return to_channels(value, self.channels)
        return value

    def _field(self, stored: StoredField) -> Field:
        field = stored.field
        if not stored.encoded:
            if stored.name == "image" and self.channels:
                return dataclasses.replace(field, shape=(*field.shape[:-1], self.channels))
            return field
        if self.pixels == "uint8" and field.dtype == "uint8" and len(field.shape) == 3:
            return dataclasses.replace(field, shape=(None, None, self.channels))
        found = spec_of(self[0])[stored.name]
        sides = (None, None) if len(found.shape) == 3 else ()
        return dataclasses.replace(found, shape=(*sides, *found.shape[len(sides) :]))


@dataclass(frozen=True, eq=False)
class EncodedRecords(StoredRecords):
    """A split whose images are stored as image files."""

    def encoded(self, index: int) -> bytes:
        """Return the bytes of image ``index``, as they were copied."""
        value = self._read(index)[0]["image"]
        if not isinstance(value, bytes):
            raise DataError(f"{self._where(index, '')}: its image is no image file")
        return value


@register_source("array_record", form="array_record:PATH", uses=("orientation",))
def load_array_record(location: str, reading: Reading, /) -> Dataset:
    """Open a file written by `resnet-jax data convert`.

    Raises:
        DataError: if it does not exist, is truncated or damaged, or is another ArrayRecord file.
    """
    if reading.pixels == "uint8":
        check_channels(reading.channels)
    path = Path(location).expanduser()
    if path.is_dir():
        inside = sorted(path.glob("*.array_record"))
        advice = f"; write array_record:{inside[0]}" if len(inside) == 1 else ""
        raise DataError(f"{path}: this is a folder; name one file that `resnet-jax data convert` wrote{advice}")
    file = RecordFile(path)
    if not len(file):
        raise DataError(f"{path}: this ArrayRecord file has no records")
    header = Header.from_bytes(file[len(file) - 1], str(path))
    header.check_records(len(file), str(path))
    splits: dict[str, Records] = {}
    notes, start = list(header.notes), 0
    for split in header.splits:
        records = _open(file, start, split, reading)
        splits[split.name] = records
        start += split.count
        greyed = records.spec["image"].shape[-1] == 1 and _channels(split) == 3
        if greyed and not isinstance(records, EncodedRecords):
            notes.append(f"the {split.name} images are RGB, converted to gray: the network takes 1 channel")
    return Dataset(
        f"array_record:{location}",
        splits,
        header.class_names,
        tuple(notes),
        header.origins,
        reading.least_classes,
        header.kind,
    )


def _open(file: RecordFile, start: int, split: StoredSplit, reading: Reading) -> StoredRecords:
    where = f"split {split.name!r} of {file.path}"
    labels = from_npy(file[split.labels], f"the labels of {where}")
    groups = None if split.groups is None else from_npy(file[split.groups], f"the groups of {where}")
    for name, found in (("labels", labels), ("groups", groups)):
        if found is not None and len(found) != split.count:
            raise DataError(f"{where}: {len(found):,} {name} of {split.count:,} examples; make the file again")
    encoded = any(stored.encoded for stored in split.fields)
    kind = EncodedRecords if encoded else StoredRecords
    channels = reading.channels or 0
    if encoded:
        channels = reading.channels or (split.channels if reading.pixels == "uint8" else 0)
    elif channels and channels != (stored := _channels(split)) and not {channels, stored} <= {1, 3}:
        raise DataError(
            f"{where}: images have {stored} channels and {channels} are wanted; only 1 and 3 turn into each other"
        )
    if reading.orientation == "exif" and not encoded:
        raise UsageError(f"data.orientation exif: {where} holds arrays and no image files that could be turned upright")
    return kind(file, start, split, labels, channels, reading.pixels, reading.orientation, groups)


def _channels(split: StoredSplit) -> int:
    """Return the last dimension of the input, as stored in the file."""
    return next(stored.field.shape[-1] or 0 for stored in split.fields if stored.name == "image")
