"""The log of what happened to a run, apart from its numbers: one JSON object a line, appended at once.

=============  ===========================================================================================
``start``      a session begins: the process, the host, the devices, the version
``restore``    it goes on from a checkpoint: ``step``, ``repeated`` updates that are made again
``save``       a checkpoint is complete: ``kind``, ``step``, ``bytes``, ``seconds``, ``blocked`` (of the loop)
``save_failed``  one could not be written: ``kind``, ``step``, ``reason``
``interval``   saving took too large a share of the time, or no longer does: ``steps`` between saves from now on
``damaged``    a file or checkpoint is not what was written: ``what``, ``reason``, ``set_aside``
``fallback``   an older checkpoint is used in its place: ``kind``, ``step``, ``instead_of``
``reject``     an update was rejected: ``step``, ``loss``, ``grad_norm``
``rollback``   a loss spike sent the run back: ``step``, ``to``, ``loss``
``stop``       the session ends before the run does: ``step``, ``reason``
``end``        the run is finished: ``step``, ``reason``
=============  ===========================================================================================

Every line has ``time`` (UTC, ISO 8601) and ``event``. What cannot be written is lost: a log never ends a training.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events to a file; nowhere, if there is none.

    Args:
        path: the file; None for nowhere, as of processes that are not the main one.

    >>> EventLog(None).add("save", step=5)
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def add(self, event: str, **facts: Any) -> None:
        """Append an event with its facts: plain numbers, texts and lists."""
        if self._path is None:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **{name: _plain(value) for name, value in facts.items()}})
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(descriptor, f"{line}\n".encode())  # in one piece: another process may be appending too
            finally:
                os.close(descriptor)


#: Logs nothing.
NO_EVENTS = EventLog(None)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a file, oldest first; lines that are none are left out. Empty if there is no file."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict) and "event" in row:
                found.append(row)
    return found


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
