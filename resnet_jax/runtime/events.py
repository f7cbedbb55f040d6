"""The log of what happened to a run, apart from its numbers: one JSON object per line, appended immediately.

=================  ===================================================================================================
``start``          a session begins: the process, the host, the devices, the version
``restore``        it continues from a checkpoint: ``step``, and the number of updates that are ``repeated``
``save``           a checkpoint is complete: ``kind``, ``step``, ``bytes``, ``seconds``, ``blocked`` (seconds the loop
                   waited)
``save_failed``    a checkpoint could not be written: ``kind``, ``step``, ``reason``
``interval``       saving took too large a share of the time, or no longer does: ``steps`` between saves from now on
``damaged``        a file or checkpoint differs from what was written: ``what``, ``reason``, ``set_aside``
``fallback``       an older checkpoint is used instead: ``kind``, ``step``, ``instead_of``
``reject``         an update was rejected: ``step``, ``loss``, ``grad_norm``, ``in_a_row``
``rollback``       a loss spike sent the run back: ``step``, ``to``, ``order_from``, ``loss``, ``median``, ``number``
``write_failed``   rows of a file cannot be written: ``what``, ``reason``; at the end ``lost``, the number of missing
                   rows
``write_resumed``  they can be written again: ``what``
``left_out``       the log grew too long: ``count`` events from its middle were removed
``stop``           the session ends before the run does: ``step``, ``reason``
``end``            the run is finished: ``step``, ``reason``
=================  ===================================================================================================

Every line has ``time`` (UTC, ISO 8601) and ``event``. What cannot be written is lost: a log never ends a training. A
log that grows past :data:`MOST_BYTES`, as in a run that rejects a million updates, keeps its beginning and its end.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
from pathlib import Path
from typing import Any

from resnet_jax.runtime.files import replacing

#: Maximum size of a log in bytes; beyond it, the first eighth and the last three eighths are kept.
MOST_BYTES = 8 * 2**20


class EventLog:
    """Appends events to a file, if there is one.

    Args:
        path: the file; None for no file, as in processes other than the main one.

    >>> EventLog(None).add("save", step=5)
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def add(self, event: str, **facts: Any) -> None:
        """Append an event with its details: plain numbers, strings and lists."""
        if self._path is None:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **{name: _plain(value) for name, value in facts.items()}})
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(descriptor, f"{line}\n".encode())  # in one piece: another process may be appending too
                size = os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
            if size > MOST_BYTES:
                self._shorten(now)

    def _shorten(self, now: str) -> None:
        """Remove the middle."""
        assert self._path is not None
        lines = self._path.read_bytes().splitlines(keepends=True)
        eighth, size, first, last = MOST_BYTES // 8, 0, 0, len(lines)
        while size < eighth:
            size, first = size + len(lines[first]), first + 1
        size = 0
        while size < 3 * eighth and last > first:
            last, size = last - 1, size + len(lines[last - 1])
        before = [json.loads(line)["count"] for line in lines[first:last] if b'"event": "left_out"' in line]
        count = last - first + sum(before) - len(before)
        note = json.dumps({"time": now, "event": "left_out", "count": count}).encode() + b"\n"
        with replacing(self._path) as partial:
            partial.write_bytes(b"".join([*lines[:first], note, *lines[last:]]))


#: A log that records nothing.
NO_EVENTS = EventLog(None)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a file, oldest first, without invalid lines; empty if there is no file."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and "event" in row:
                found.append(row)
    return found


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
