"""metrics.jsonl: one JSON object per line, appended as training goes; the record that all pictures are made from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnet_jax.runtime.files import write_whole
from resnet_jax.training.cadence import Cadence, Ticker
from resnet_jax.training.observers import Observer, Row


class MetricsFile(Observer):
    """Writes a ``train`` row every few steps, an ``epoch`` row per epoch, a ``validation`` row for one within it.

    A number that is not finite, of a step that the loss scale skipped, is written as null.

    Args:
        path: the file; rows after ``start_step`` are dropped first, so that a resumed run leaves no row twice.
        start_step: updates done when this session begins.
        every: how often there is a ``train`` row; a number is in steps.
        learning_rate: rate of the update with a given 0-based index.
    """

    def __init__(
        self, path: Path, *, start_step: int, every: Cadence | int, learning_rate: Callable[[int], Any]
    ) -> None:
        self._ticker, self._learning_rate = Ticker(every), learning_rate
        keep_until(path, start_step)
        self._file = Appended(path)

    def on_step(self, row: Row) -> None:
        """Write the row if its step is due."""
        if self._ticker.is_due(int(row["step"])):
            made = row["step"] - row.get("skipped", 0)  # the schedule goes by updates made
            rate = float(self._learning_rate(max(int(made) - 1, 0)))
            self._write({"kind": "train", **row, "learning_rate": rate})

    def on_epoch(self, row: Row) -> None:
        """Write the row."""
        self._write({"kind": "epoch", **row})

    def on_validation(self, row: Row) -> None:
        """Write the row."""
        self._write({"kind": "validation", **row})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        clean = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
        self._file.write(json.dumps(clean))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file, oldest first; a last line cut off by a crash is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def keep_until(path: Path, step: int) -> None:
    """Drop the rows after ``step``: a run that is resumed there writes them again."""
    kept = [row for row in read_metrics(path) if row.get("step", 0) <= step]
    write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))


class Appended:
    """A file of lines that are appended one by one, each at once.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be written, from here and from the methods; with its path.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("a", buffering=1, encoding="utf-8")

    def write(self, line: str) -> None:
        """Append a line."""
        self._named(lambda: self._file.write(line + "\n"))

    def close(self) -> None:
        """Close the file."""
        self._named(self._file.close)

    def _named(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self._path)) from error
