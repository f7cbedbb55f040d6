"""The layout of a data set in one ArrayRecord file: examples, then the labels of each split, then a header.

========  ===================================================================================================
records   content
========  ===================================================================================================
0 .. N-1  the examples, split by split: each field in the order of the header, then the origin of the example
N ..      for each split its labels and, if there are any, its groups, as ``.npy`` without pickles
the last  ``MAGIC``, then the header as JSON: splits, fields, class names, kind of labels, notes
========  ===================================================================================================

A field with an image file is its length (32 bits) and its bytes, unchanged. An array is its sides (32 bits each, only
if they vary between examples) and its values. All numbers are little-endian. Labels are not repeated in the examples: a
set is opened by reading the last few records.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from resnet_jax.data.example import Field, Meaning
from resnet_jax.errors import DataError
from resnet_jax.runtime.plain_json import load_json
from resnet_jax.runtime.plain_numpy import read_array
from resnet_jax.tasks.facts import LabelKind

MAGIC = b"resnet_jax data set\n"
VERSION = 1


@dataclass(frozen=True)
class StoredField:
    """A field of the examples of a split.

    Attributes:
        name: its name.
        field: shape, dtype and meaning, according to the source.
        encoded: whether it is stored as the bytes of an image file.
    """

    name: str
    field: Field
    encoded: bool = False

    def __post_init__(self) -> None:
        if np.dtype(self.field.dtype).kind not in "biufc":
            raise DataError(f"field {self.name!r} is {self.field.dtype}; only numbers can be stored")

    @property
    def varies(self) -> bool:
        """Whether its sides differ between examples."""
        return None in self.field.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of its values in the file."""
        return np.dtype(self.field.dtype).newbyteorder("<")


@dataclass(frozen=True)
class StoredSplit:
    """A split.

    Attributes:
        name: train, val, test or all.
        count: number of examples.
        fields: fields of the examples, except the label.
        labels: number of the record with its labels.
        groups: number of the record with its groups, or None.
        channels: channels of its image files, as ``Reading.channels``; 0 for the stored channels.
        encoded_bytes: the size of all its examples.
    """

    name: str
    count: int
    fields: tuple[StoredField, ...]
    labels: int
    groups: int | None = None
    channels: int = 0
    encoded_bytes: int = 0


@dataclass(frozen=True)
class Header:
    """The description of a file, as in :class:`resnet_jax.data.records.Dataset`.

    Attributes:
        source: what it was copied from.
    """

    source: str
    kind: LabelKind
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    origins: Mapping[str, str]
    splits: tuple[StoredSplit, ...]

    def to_bytes(self) -> bytes:
        """Return the last record of the file."""
        return MAGIC + json.dumps({"version": VERSION, **dataclasses.asdict(self)}).encode("ascii")

    @classmethod
    def from_bytes(cls, record: bytes, path: str) -> Header:
        """Read the last record of a file.

        Raises:
            DataError: if it is not a header, or one of a later version.
        """
        if not record.startswith(MAGIC):
            raise DataError(
                f"{path}: this is an ArrayRecord file, but its last record is no header of ours: what its records hold "
                "is not known. `resnet-jax data convert SOURCE OUT` writes files that say it; a set that TFDS prepared "
                "is tfds:NAME@DATA_DIR; for other records register a source (resnet_jax.data.register_source)"
            )
        try:
            found = load_json(record[len(MAGIC) :])
            if found.pop("version") != VERSION:
                raise ValueError("written by a later version of resnet-jax: update it, or make the file again")
            splits = tuple(_split(split) for split in found.pop("splits"))
            texts = {name: tuple(found.pop(name)) for name in ("class_names", "notes")}
            if found["kind"] not in get_args(LabelKind):
                raise ValueError(f"kind {found['kind']!r}")
            return cls(splits=splits, **texts, **found)
        except (ValueError, KeyError, TypeError, AttributeError, DataError) as error:
            raise DataError(f"{path}: the header in its last record is broken ({error})") from error

    def check_records(self, count: int, path: str) -> None:
        """Reject a header that refers to records that a file does not have.

        Raises:
            DataError: if examples, labels or groups would be outside it.
        """
        examples = sum(split.count for split in self.splits)
        places = [place for split in self.splits for place in (split.labels, split.groups) if place is not None]
        if any(split.count < 0 for split in self.splits) or not all(examples <= place < count - 1 for place in places):
            raise DataError(f"{path}: the header speaks of other records than the {count:,} of the file; make it again")


def _split(found: dict[str, Any]) -> StoredSplit:
    fields = []
    for one in found.pop("fields"):
        shape, dtype, meaning = one["field"]["shape"], one["field"]["dtype"], one["field"]["meaning"]
        if meaning not in get_args(Meaning):
            raise ValueError(f"meaning {meaning!r}")
        fields.append(StoredField(one["name"], Field(tuple(shape), dtype, meaning), one["encoded"]))
    return StoredSplit(fields=tuple(fields), **found)


def pack(fields: Sequence[StoredField], values: Mapping[str, np.ndarray | bytes], origin: str, where: str) -> bytes:
    """Return the record of one example.

    Args:
        fields: fields of the split.
        values: an array for each field, or the bytes of an image file.
        origin: where it came from; empty if that is only a number.
        where: the same, for messages.

    Raises:
        DataError: if an array does not match the source's description.
    """
    parts: list[bytes] = []
    for stored in fields:
        value = values[stored.name]
        if isinstance(value, bytes):
            parts += [struct.pack("<I", len(value)), value]
            continue
        expected = stored.field
        same_rank = value.ndim == len(expected.shape)
        fits = same_rank and all(side in (None, found) for side, found in zip(expected.shape, value.shape, strict=True))
        if not fits or value.dtype != np.dtype(expected.dtype):
            raise DataError(
                f"{where}: {stored.name} is {value.dtype} {value.shape}, but the source says {expected.dtype} "
                f"{expected.shape} of all examples"
            )
        if stored.varies:
            parts.append(struct.pack(f"<{value.ndim}I", *value.shape))
        parts.append(np.ascontiguousarray(value, stored.dtype).tobytes())
    return b"".join([*parts, origin.encode("utf-8", "surrogatepass")])


def unpack(fields: Sequence[StoredField], record: bytes, where: str) -> tuple[dict[str, np.ndarray | bytes], str]:
    """Return the fields of one example, image files as their bytes, and where it came from.

    Raises:
        DataError: if the record is shorter than its fields.
    """
    values: dict[str, np.ndarray | bytes] = {}
    at = 0
    try:
        for stored in fields:
            if stored.encoded:
                (length,) = struct.unpack_from("<I", record, at)
                at += 4
                data = record[at : at + length]
                if len(data) != length:
                    raise struct.error(f"{stored.name} has {len(data)} of {length} bytes")
                values[stored.name] = data
            else:
                shape = stored.field.shape
                if stored.varies:
                    shape = struct.unpack_from(f"<{len(shape)}I", record, at)
                    at += 4 * len(shape)
                sides = tuple(side for side in shape if side is not None)
                length = math.prod(sides) * stored.dtype.itemsize
                flat = np.frombuffer(record, stored.dtype, math.prod(sides), at)
                values[stored.name] = flat.reshape(sides).astype(np.dtype(stored.field.dtype))
            at += length
        return values, record[at:].decode("utf-8", "surrogatepass")
    except (struct.error, ValueError) as error:
        raise DataError(f"{where}: the record is not what the header says ({error}); make the file again") from error


def to_npy(values: np.ndarray) -> bytes:
    """Return an array as the bytes of an ``.npy`` file.

    Raises:
        DataError: if it contains Python objects.
    """
    buffer = io.BytesIO()
    try:
        np.save(buffer, values, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{values.dtype} {values.shape} cannot be stored: {error}") from error
    return buffer.getvalue()


def from_npy(record: bytes, where: str) -> np.ndarray:
    """Return the array of an ``.npy`` file.

    Raises:
        DataError: if it is not one.
    """
    try:
        return read_array(record)
    except ValueError as error:
        raise DataError(f"{where}: cannot read it as an array ({error})") from error
