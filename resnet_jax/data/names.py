"""The name of an example, independent of the machine; and a number in [0, 1) that depends only on the name."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from resnet_jax.data.records import Source, in_memory

Told = Literal["names", "contents", "positions"]
"""What distinguishes examples: their names, contents, or positions."""


def names_of(records: Source, dataset: str) -> list[str] | None:
    """Return the name of every example, or None if the source has none.

    A name is the path of the example's file relative to the data set, with ``/`` and in Unicode form NFC: the same on
    every machine. A source without files may have an attribute ``names``, one string per example.

    Args:
        records: the records of the data set, not a part of them.
        dataset: its name, ``KIND:LOCATION``.

    >>> from resnet_jax.data.records import ArrayRecords
    >>> names_of(ArrayRecords(np.zeros((2, 8, 8), np.uint8), np.arange(2)), "arrays") is None
    True
    """
    given = getattr(records, "names", None)
    if given is not None:
        return [unicodedata.normalize("NFC", str(name)) for name in given]
    if not len(records) or not os.path.isfile(records.describe(0)):
        return None
    place = Path(dataset.partition(":")[2]).expanduser()
    root = str(place if place.is_dir() else place.parent)
    return [_below(records.describe(index), root) for index in range(len(records))]


def _below(path: str, root: str) -> str:
    inside = root + os.sep
    relative = path[len(inside) :] if path.startswith(inside) else os.path.relpath(path, root)
    return unicodedata.normalize("NFC", relative.replace(os.sep, "/"))


def identities(records: Source, dataset: str) -> tuple[Sequence[str | bytes], Told]:
    """Return what distinguishes every example from others, and which kind of information that is.

    Names if there are any; for arrays in memory, a digest of the network's input, so that equal examples are one;
    otherwise positions, which change when examples are added before.

    Args:
        records: the records of the data set, not a part of them.
        dataset: its name, ``KIND:LOCATION``.
    """
    names = names_of(records, dataset)
    if names is not None:
        return names, "names"
    if in_memory(records):
        return [_digest(records[index]["image"]) for index in range(len(records))], "contents"
    return [str(index) for index in range(len(records))], "positions"


def _digest(values: np.ndarray) -> bytes:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return hashlib.blake2b(str(little.shape).encode() + little.tobytes(), digest_size=16).digest()


def hashed(told: Iterable[str | bytes], seed: int, purpose: str) -> np.ndarray:
    """Return a number in [0, 1) for each: a hash of the seed, the purpose and the name, and of nothing else.

    Args:
        told: the names.
        seed: selects the hash.
        purpose: makes numbers for different purposes independent of each other.

    >>> hashed(["cat/1.png", "cat/2.png"], 0, "val").round(3).tolist()
    [0.589, 0.751]
    """
    base = hashlib.blake2b(f"{purpose} {seed}\n".encode(), digest_size=8)
    found = []
    for one in told:
        own = base.copy()
        own.update(one if isinstance(one, bytes) else one.encode("utf-8", "surrogatepass"))
        found.append(int.from_bytes(own.digest(), "little") >> 11)
    return np.array(found, np.float64) / 2**53


def digest_of(parts: Iterable[Iterable[str | bytes]]) -> str:
    """Return 16 hexadecimal digits that identify which examples are in which part, and in which order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"\1")
        for one in part:
            digest.update((one if isinstance(one, bytes) else one.encode("utf-8", "surrogatepass")) + b"\0")
    return digest.hexdigest()[:16]
