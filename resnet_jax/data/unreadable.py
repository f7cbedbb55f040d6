"""Unreadable examples: either one stops the run, or they are skipped, counted, listed and reported.

In training, another example replaces a skipped one: the next readable one in the training order. So a batch stays a
function of the step alone, its shape is constant, and a resumed run gets the same batches. In evaluation its row counts
nowhere (``mask`` is False).

An example is unreadable if the source raises :class:`~resnet_jax.errors.DataError` for it: a file that is gone,
truncated or not an image. An image with a different size than the others is readable, and stops the run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from resnet_jax.data.records import ArrayRecords, Source, Subset
from resnet_jax.errors import DataError

OnCorrupt = Literal["stop", "skip"]

SHARE = 0.01
"""Fraction of a split that may be skipped before the run stops anyway."""


@dataclass(frozen=True)
class LeftOut:
    """An example that could not be read.

    Attributes:
        split: its split, such as ``train``.
        index: its index in the split.
        where: the source's description of it: usually its file.
        reason: why, according to the source.
    """

    split: str
    index: int
    where: str
    reason: str


@dataclass(eq=False)
class Unreadable:
    """The unreadable examples of one split, each once, whoever encountered them. Threads may share it.

    Args:
        split: the split, for messages.
        total: number of examples of the split.
        share: fraction of them that may be skipped.
        told: called with each one when it is first encountered.

    >>> lost = Unreadable("test", total=200)
    >>> lost.add(3, "b.jpg", "b.jpg: the file is empty")
    >>> lost.add(3, "b.jpg", "b.jpg: the file is empty")
    >>> len(lost), 3 in lost, lost.said()
    (1, True, '199 of 200 test examples were read; 1 was left out, for it could not be: b.jpg: the file is empty')
    """

    split: str
    total: int
    share: float = SHARE
    told: Callable[[LeftOut], None] | None = None
    _found: dict[int, LeftOut] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def add(self, index: int, where: str, reason: str) -> None:
        """Count an example.

        Raises:
            DataError: if there are now more than allowed.
        """
        with self._lock:
            if index in self._found:
                return
            found = self._found[index] = LeftOut(self.split, index, where, reason)
            count = len(self._found)
        if self.told is not None:
            self.told(found)
        if count > self.share * self.total:
            raise DataError(
                f"{count:,} of {self.total:,} {self.split} examples cannot be read, more than the {self.share:.3g} of "
                f"them that may be left out (data.max_corrupt); the first: {self.entries[0].reason}"
                + (f"; the last: {reason}" if count > 1 else "")
            )

    @property
    def entries(self) -> list[LeftOut]:
        """All of them, by index."""
        with self._lock:
            return [self._found[index] for index in sorted(self._found)]

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, index: object) -> bool:
        return index in self._found

    def said(self) -> str:
        """Return how many were skipped, with the name of the first; empty if there were none."""
        if not (entries := self.entries):
            return ""
        count = len(entries)
        was, more = ("was", "") if count == 1 else ("were", f", and {count - 1:,} more")
        reason = "it could not be" if count == 1 else "they could not be"
        return (
            f"{self.total - count:,} of {self.total:,} {self.split} examples were read; {count:,} {was} left out, for "
            f"{reason}: {entries[0].reason}{more}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what worker processes need: they report what they find, and the main process counts and decides."""
        return {
            "split": self.split,
            "total": self.total,
            "share": float("inf"),
            "told": None,
            "_found": {**self._found},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def unreadable_in(records: Source) -> dict[int, str]:
    """Return the examples of an in-memory source that could not be read when it was filled, and why."""
    if isinstance(records, ArrayRecords):
        return dict(records.unreadable)
    if isinstance(records, Subset) and (whole := unreadable_in(records.records)):
        return {row: whole[int(index)] for row, index in enumerate(records.indices) if int(index) in whole}
    return {}


def first_readable(records: Source, unreadable: Unreadable | None) -> tuple[int, Any]:
    """Return the first readable example, and its index.

    Args:
        records: any source.
        unreadable: counts those before it; None to stop at the first one.

    Raises:
        DataError: if the first example cannot be read but must be, too many cannot be, or there are none.
    """
    if not len(records):
        raise DataError("there are no examples")
    if unreadable is None:
        return 0, records[0]
    for index in range(len(records)):
        if (example := read_or_count(records, index, unreadable)) is not None:
            return index, example
    raise DataError(f"none of the {len(records):,} {unreadable.split} examples can be read")


def read_or_count(records: Source, index: int, unreadable: Unreadable) -> Any:
    """Return example ``index``; None if it cannot be read, which is then counted.

    Raises:
        DataError: if too many cannot be read.
    """
    if index in unreadable:
        return None
    try:
        return records[index]
    except DataError as error:
        reason = str(error)
    unreadable.add(index, records.describe(index), reason)
    return None
