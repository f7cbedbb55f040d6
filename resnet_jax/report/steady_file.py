"""Files that grow row by row, and that a training never stops or waits for.

What cannot be written (a full disk, a quota, a limit on the size of files) waits in memory and is written as soon as
there is room again: no row is left out, doubled or cut in half. A checkpoint keeps how far a file had come
(:class:`Position`), so that the session that resumes there knows exactly what must be in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import shutil
import stat
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resnet_jax.runtime.events import NO_EVENTS, EventLog

Warn = Callable[[str], None]

_log = logging.getLogger(__name__)

#: Bytes of rows that wait in memory; further ones are lost, which is said.
MOST_WAITING = 64 * 2**20
#: Bytes of waiting rows that a checkpoint takes along.
MOST_IN_CHECKPOINT = 2**20
#: Seconds between two attempts to write what waits.
RETRY_SECONDS = 0.5

_CHUNK = 2**20


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a file had come.

    Attributes:
        size: bytes of whole rows in it.
        sha256: of these, hexadecimal.
        rows: how many.
        waiting: rows that could not be written by then, as Latin-1 (a byte a character); they belong after the others.
        lost: rows that could be kept nowhere.
    """

    size: int
    sha256: str
    rows: int
    waiting: tuple[str, ...] = ()
    lost: int = 0

    @classmethod
    def from_json(cls, value: Any) -> Position | None:
        """Read what :meth:`SteadyFile.position` wrote; None of anything else, as of a checkpoint of before."""
        if not isinstance(value, Mapping):
            return None
        with contextlib.suppress(TypeError, ValueError, KeyError):
            waiting = tuple(str(row) for row in value.get("waiting", ()))
            return cls(int(value["size"]), str(value["sha256"]), int(value["rows"]), waiting, int(value.get("lost", 0)))
        return None


def digest_of(path: Path, size: int) -> Any | None:
    """Return the SHA-256 of the first ``size`` bytes of a file; None if it has fewer, or is no file."""
    digest, left = hashlib.sha256(), size
    if not path.is_file():
        return None
    with path.open("rb") as file:
        while left and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
    return None if left else digest


def set_aside(path: Path) -> Path:
    """Give what is at ``path`` a second name, ``NAME.damaged-1`` and so on, and return it.

    A file also stays where it is, until another one takes its place in one piece; what is no file is moved.

    Raises:
        OSError: there is no room for it.
    """
    number = 1
    while os.path.lexists(other := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    if not stat.S_ISREG(path.lstat().st_mode):
        path.rename(other)
        return other
    try:
        os.link(path, other)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, other)
    return other


class SteadyFile:
    """A file that grows, from a position on; what lies beyond is cut off.

    Args:
        path: the file.
        position: what of it is kept: bytes that are in it, and rows that are written first.
        digest: of these bytes (:func:`digest_of`); None: it is computed.
        warn: is told once when it cannot be written, when it can again, and at the end what is missing.
        events: is told too.

    Raises:
        OSError: it cannot be opened; with its path.
    """

    def __init__(
        self,
        path: Path,
        position: Position,
        *,
        digest: Any | None = None,
        warn: Warn = _log.warning,
        events: EventLog = NO_EVENTS,
    ) -> None:
        self._path, self._warn, self._events = path, warn, events
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._size, self._rows = position.size, position.rows
        self._digest = digest or digest_of(path, position.size) or hashlib.sha256()
        self._waiting: deque[tuple[bytes, int | None]] = deque()
        self._waiting_bytes = 0
        self._lost, self._lost_steps = position.lost, []
        self._failed: OSError | None = None
        self._told, self._tried, self._synced = False, -RETRY_SECONDS, True
        try:
            os.ftruncate(self._file, self._size)
        except OSError as error:
            os.close(self._file)
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        for row in position.waiting:
            self.write(row.encode("latin-1"))

    def write(self, row: bytes, step: int | None = None) -> None:
        """Append a row, now or when there is room.

        Args:
            row: all of it, with what ends it.
            step: that it is of, for messages.
        """
        if self._waiting_bytes + len(row) > MOST_WAITING:
            self._lose(step)
            return
        self._waiting.append((row, step))
        self._waiting_bytes += len(row)
        if self._failed is None or time.monotonic() - self._tried >= RETRY_SECONDS:
            self._try()

    def position(self) -> dict[str, Any]:
        """Return how far it has come, for a checkpoint: what was written is on disk, or in what this returns."""
        self._try()
        if not self._synced:  # the machine may lose its power after the checkpoint
            with contextlib.suppress(OSError):
                os.fsync(self._file)
            self._synced = True
        rows = [row.decode("latin-1") for row, _ in self._waiting]
        fits = self._waiting_bytes <= MOST_IN_CHECKPOINT
        found = {"size": self._size, "sha256": self._digest.hexdigest(), "rows": self._rows}
        if rows and fits:
            found["waiting"] = rows
        lost = self._lost + (0 if fits else len(rows))
        return {**found, "lost": lost} if lost else found

    def close(self) -> None:
        """Write what waits if there is room now, say what is missing if there is not, and close the file."""
        if self._file < 0:
            return
        self._try()
        for _, step in self._waiting:
            self._lose(step)
        if self._lost_steps or self._waiting:
            steps = [step for step in self._lost_steps if step is not None]
            of = f" of steps {min(steps):,} to {max(steps):,}" if steps else ""
            reason = self._failed.strerror if self._failed is not None else "too many waited"
            count = len(self._lost_steps)
            self._tell(f"warning: {self._path} lacks {count:,} rows{of}: they could not be written ({reason})")
            self._events.add("write_failed", what=self._path.name, reason=reason, lost=count)
        with contextlib.suppress(OSError):
            os.close(self._file)
        self._file = -1

    def _lose(self, step: int | None) -> None:
        self._lost += 1
        self._lost_steps.append(step)

    def _try(self) -> None:
        """Write what waits, as far as there is room."""
        if not self._waiting or self._file < 0:
            return
        self._tried = time.monotonic()
        try:
            while self._waiting:
                row, _ = self._waiting[0]
                self._write_at_end(row)
                self._waiting.popleft()
                self._waiting_bytes -= len(row)
                self._size, self._rows = self._size + len(row), self._rows + 1
                self._digest.update(row)
                self._synced = False
        except OSError as error:
            self._fail(error)
            return
        if self._failed is not None:
            self._failed, reason = None, self._failed.strerror
            self._tell(f"{self._path} can be written again ({reason} no more): no row is missing so far")
            self._events.add("write_resumed", what=self._path.name)

    def _write_at_end(self, row: bytes) -> None:
        """Write all of a row at the end, or nothing of it."""
        done = 0
        try:
            while done < len(row):
                done += os.pwrite(self._file, row[done:], self._size + done)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise

    def _fail(self, error: OSError) -> None:
        first, self._failed = self._failed is None, error
        if first and not self._told:
            self._told = True
            reason = error.strerror or str(error)
            self._tell(
                f"warning: {self._path} cannot be written: {reason}. Training continues; its rows wait in memory and "
                "are written as soon as there is room"
            )
            self._events.add("write_failed", what=self._path.name, reason=reason)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(Exception):  # a terminal that has gone stops nothing
            self._warn(line)
