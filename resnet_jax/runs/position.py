"""A session's position in a file that survives SIGKILL, so that a resumed run knows how many updates it repeats.

``RUN/.position`` contains 16 bytes, the number of updates done and its complement. They are written after every update
and never synced: a killed process leaves them in the system's memory, and if the machine crashes, the number is too
small by the last seconds at most.
"""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

from resnet_jax.training.observers import Observer, Row

_FORM = struct.Struct("<qq")


class Position(Observer):
    """Writes the file; if it cannot be written it is skipped, because nothing depends on it.

    Args:
        path: the file; None to write nothing, as in processes other than the main one.
        start_step: number of updates done when the session begins.
    """

    def __init__(self, path: Path | None, start_step: int) -> None:
        self._descriptor, self._step = -1, -1
        if path is not None:
            with contextlib.suppress(OSError):
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        self._write(start_step)

    def on_step(self, row: Row) -> None:
        """Write the step."""
        self._write(int(row["step"]))

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, step: int) -> None:
        if self._descriptor >= 0 and step != self._step:
            self._step = step
            with contextlib.suppress(OSError):
                os.pwrite(self._descriptor, _FORM.pack(step, ~step), 0)


def read_position(path: Path) -> int | None:
    """Return the number of updates that the previous session had done; None if unknown.

    >>> read_position(Path("nowhere")) is None
    True
    """
    try:
        step, complement = _FORM.unpack(path.read_bytes())
    except (OSError, struct.error):
        return None
    return step if step == ~complement and step >= 0 else None
