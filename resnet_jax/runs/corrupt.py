"""``corrupt.jsonl`` of a run: the unreadable examples that were skipped, each listed once over all sessions."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from resnet_jax.data.unreadable import LeftOut, Unreadable
from resnet_jax.errors import DamagedError
from resnet_jax.runtime import processes
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.plain_files import read_text
from resnet_jax.runtime.plain_json import load_json


class CorruptList:
    """Records skipped examples as they are encountered, and reports the first.

    Args:
        path: path of the file, which is created with the first entry.
        unreadable: split -> the counter of its unreadable examples; empty if such an example stops the run.
        say: called with lines for the user.
        writes: whether this process writes the file: with several, the main one, which learns of the others' in
            :func:`share`.
    """

    def __init__(
        self,
        path: Path,
        unreadable: Mapping[str, Unreadable],
        say: Callable[[str], None],
        *,
        writes: bool = True,
    ) -> None:
        self._path, self._say, self._lock, self._writes = path, say, threading.Lock(), writes
        self._known = {(entry.split, entry.index): entry for entry in read_corrupt(path)}
        self._said = False
        if writes and path.is_file():  # without a last line that was cut off
            write_whole(path, "".join(_line(entry) for entry in self._known.values()))
        for split in unreadable.values():
            for entry in split.entries:
                self._add(entry)
            split.told = self._add

    def _add(self, entry: LeftOut) -> None:
        with self._lock:
            if (entry.split, entry.index) in self._known:
                return
            self._known[entry.split, entry.index] = entry
            if not self._writes:
                return
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(_line(entry))
            first, self._said = not self._said, True
        if first:
            self._say(f"skipped an unreadable example: {entry.reason}. All are listed in {self._path}")

    @property
    def counts(self) -> dict[str, int]:
        """Split -> number of its examples that were skipped, over all sessions."""
        return dict(Counter(split for split, _ in self._known))

    def said(self, totals: Mapping[str, int]) -> tuple[str, ...]:
        """Return how many were skipped: one sentence per split."""
        return tuple(said_skipped(split, count, totals[split]) for split, count in self.counts.items())


def share(unreadable: Unreadable) -> None:
    """Share with every process which examples each could not read; all processes must call it.

    Raises:
        DataError: if there are more in total than may be skipped.
    """
    if processes.count() == 1:
        return
    for entries in processes.gathered([[entry.index, entry.where, entry.reason] for entry in unreadable.entries]):
        for index, where, reason in entries:
            unreadable.add(index, where, reason)


def _line(entry: LeftOut) -> str:
    return json.dumps(dataclasses.asdict(entry)) + "\n"


def said_skipped(split: str, count: int, total: int) -> str:
    """Return how many examples of a split were skipped.

    >>> said_skipped("test", 2, 10000)
    'test: 9,998 of 10,000 scored; 2 could not be read and were skipped'
    >>> said_skipped("train", 1, 50)
    'train: 49 of 50 read; 1 could not be read and was skipped'
    """
    were = "was" if count == 1 else "were"
    if split == "train":
        return f"train: {total - count:,} of {total:,} read; {count:,} could not be read and {were} skipped"
    return f"{split}: {total - count:,} of {total:,} scored; {count:,} could not be read and {were} skipped"


def read_corrupt(path: Path) -> list[LeftOut]:
    """Return the entries of a file; empty if there is no file. A truncated last line is left out.

    Raises:
        DamagedError: if another line is damaged.
    """
    if not path.is_file():
        return []
    number = 0  # of the line
    try:
        *whole, _ = read_text(path).split("\n")
        found = []
        for line in whole:
            number += 1
            entry = LeftOut(**load_json(line))
            if not isinstance(entry.split, str) or type(entry.index) is not int or not isinstance(entry.where, str):
                raise ValueError("it names no example")
            found.append(entry)
        return found
    except (OSError, ValueError, TypeError) as error:
        said = f"line {number:,}" if number else "it"
        raise DamagedError(f"{path} is damaged: {said} cannot be read ({error}); restore or remove the file") from error
