"""metrics.jsonl: one JSON object per line, appended as training goes; the record that all pictures are made from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resnet_jax.report.rows_file import RowsFile, check_step, read_rows
from resnet_jax.report.steady_file import Warn
from resnet_jax.runtime.events import NO_EVENTS, EventLog
from resnet_jax.training.cadence import Cadence, Ticker
from resnet_jax.training.observers import Observer, Row

_log = logging.getLogger(__name__)


class MetricsFile(Observer):
    """Writes a ``train`` row every few steps, an ``epoch`` row per epoch, a ``validation`` row for one within it.

    A number that is not finite, of a step that the loss scale skipped, is written as null. Where the file cannot be
    written, training goes on and the rows wait (:mod:`resnet_jax.report.steady_file`).

    Args:
        path: the file; rows after ``start_step`` are dropped first, so that a resumed run leaves no row twice.
        start_step: updates done when this session begins.
        every: how often there is a ``train`` row; a number is in steps.
        learning_rate: rate of the update with a given 0-based index.
        records: what the checkpoint that the session goes on from knows (:attr:`RunFacts.records`).
        warn: is told, in a line, what is wrong with the file.
        events: likewise.

    Raises:
        OSError: the file cannot be written at all; with its path.
    """

    def __init__(
        self,
        path: Path,
        *,
        start_step: int,
        every: Cadence | int,
        learning_rate: Callable[[int], Any],
        records: Mapping[str, Any] | None = None,
        warn: Warn = _log.warning,
        events: EventLog = NO_EVENTS,
    ) -> None:
        self._ticker, self._learning_rate, self._name = Ticker(every), learning_rate, path.name
        position = (records or {}).get(path.name)
        self._file = RowsFile(path, check_row, start_step=start_step, position=position, warn=warn, events=events)

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

    def position(self) -> Mapping[str, Any]:
        """Return how far the file has come."""
        return {self._name: self._file.position()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(row, int(row["step"]))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file, oldest first; a last line cut off by a crash is left out.

    A line within that is no row is left out too, and named in a warning.
    """
    return read_rows(path, check_row)


def check_row(row: dict[str, Any]) -> str | None:
    """Return what is wrong with a row of metrics, or None."""
    if not isinstance(row.get("kind"), str):
        return "has no kind"
    for name, value in row.items():
        if name != "kind" and value is not None and not isinstance(value, (int, float)):
            return f"has a {name[:40]!r} that is no number"
    return check_step(row)
