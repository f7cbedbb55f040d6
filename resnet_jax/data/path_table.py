"""Many paths in two arrays: a million file names in tens of megabytes, which can be sent to worker processes as is."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class PathTable(Sequence[str]):
    """Paths with a common prefix. Each takes the bytes of its rest and 8 more; in a tuple of strings about 120.

    Attributes:
        prefix: the common prefix, such as ``/data/set/``.
        names: uint8, the rest of every path, one after another, as bytes of the file system.
        starts: int64 (N + 1,), where each begins in ``names``.

    >>> table = PathTable.of(["a/1.png", "b/2.png"], "/set/")
    >>> table[1], len(table), list(table)[0], table.nbytes
    ('/set/b/2.png', 2, '/set/a/1.png', 38)
    """

    prefix: str
    names: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, names: Iterable[str], prefix: str = "") -> PathTable:
        """Return a table of names, each without the prefix."""
        builder = TableBuilder()
        builder.add(names)
        return builder.table(prefix)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: Any) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"path {index} of {len(self)}")
        return self.prefix + os.fsdecode(self.names[self.starts[place] : self.starts[place + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        for index in range(len(self)):
            yield self[index]

    @property
    def nbytes(self) -> int:
        """Size of both arrays in bytes."""
        return self.names.nbytes + self.starts.nbytes


class TableBuilder:
    """Collects paths for a `PathTable` in batches, so that they are never all strings at once."""

    def __init__(self) -> None:
        self._names: list[bytes] = []
        self._lengths: list[np.ndarray] = []

    def add(self, names: Iterable[str]) -> None:
        """Add names, without the prefix of the table."""
        encoded = [os.fsencode(name) for name in names]
        self._names.append(b"".join(encoded))
        self._lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))

    def table(self, prefix: str = "") -> PathTable:
        """Return the table of everything that was added."""
        lengths = np.concatenate([np.zeros(1, np.int64), *self._lengths])
        return PathTable(prefix, np.frombuffer(b"".join(self._names), np.uint8), np.cumsum(lengths))
