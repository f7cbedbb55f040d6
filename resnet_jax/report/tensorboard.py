"""TensorBoard event files, written without TensorFlow. A training observer."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.report.steady_file import Position, SteadyFile, digest_of
from resnet_jax.report.trackers import Scalars
from resnet_jax.training.observers import RunFacts

#: The names that this observer gives its files; others in the folder are left alone.
_OURS = re.compile(r"events\.out\.tfevents\.\d+\..*\.\d+")


class TensorBoard(Scalars):
    """Writes the scalars of every epoch and of logged steps into ``tensorboard/`` of the run directory.

    A run has one file, however often it is resumed: what was written after the step that a session starts at is cut
    off, so that every scalar is there once. Where the file cannot be written, training goes on and the events wait
    (:mod:`resnet_jax.report.steady_file`).

    Raises:
        OSError: the file cannot be made; from ``on_start``.
    """

    _file: SteadyFile | None = None

    def on_start(self, facts: RunFacts) -> None:
        """Bring the file to the step that this session starts at, and open it."""
        super().on_start(facts)
        self.close()
        folder, start = facts.run_dir / "tensorboard", facts.start_step
        folder.mkdir(parents=True, exist_ok=True)
        written = sorted(path for path in folder.iterdir() if _OURS.fullmatch(path.name) and path.is_file())
        stored = facts.records.get(folder.name)
        known, digest = Position.from_json(stored), None
        if known is not None and [path.name for path in written] == [dict(stored or {}).get("file")]:
            digest = digest_of(written[0], known.size)
        if known is None or digest is None or digest.hexdigest() != known.sha256:
            known, digest = self._merge(written, start, known, facts), None
        path = written[0] if written else folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.0"
        self._name, self._path = folder.name, path
        self._file = SteadyFile(path, known, digest=digest, warn=facts.warn, events=facts.events)
        if not known.size:
            from resnet_jax.report.event_records import file_version

            self._file.write(file_version())

    def on_rollback(self, facts: RunFacts) -> None:
        """Bring the file back to the step that the run goes on from."""
        self.on_start(facts)

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Write an event for each."""
        from resnet_jax.report.event_records import scalar

        assert self._file is not None
        for tag, value in scalars.items():
            self._file.write(scalar(tag, value, step), step)

    def position(self) -> Mapping[str, Any]:
        """Return how far the file has come."""
        return {} if self._file is None else {self._name: {**self._file.position(), "file": self._path.name}}

    def close(self) -> None:
        """Write what waits, and close."""
        if self._file is not None:
            self._file.close()

    def _merge(self, written: list[Path], start: int, known: Position | None, facts: RunFacts) -> Position:
        """Put what earlier sessions wrote up to the start step into the first file, once each; remove the others.

        The file takes the place of the first one in one piece; a process killed before the others are removed leaves
        scalars twice, and the next one finds and removes them.
        """
        from resnet_jax.report.event_records import file_version, records_of, scalars_of
        from resnet_jax.runtime.files import replacing

        waiting = () if known is None else known.waiting
        if not written:
            if known is not None and known.rows > 1:
                self._damaged(facts, "it is missing", known.rows - 1)
            return Position(0, "", 0, waiting)
        if start == 0:
            for other in written[1:]:
                other.unlink()
            return Position(0, "", 0)
        seen: set[tuple[str, int]] = set()
        size = rows = broken = 0
        with replacing(written[0]) as partial, partial.open("wb") as file:
            first = file_version()
            rows, size = 1, file.write(first)
            for path in written:
                for record, event in records_of(path):
                    broken += event is None
                    scalars = [] if event is None else [(tag, step) for tag, step, _ in scalars_of(event)]
                    if not scalars or scalars[0][1] > start or seen.issuperset(scalars):
                        continue
                    seen.update(scalars)
                    rows, size = rows + 1, size + file.write(record)
            file.flush()
            os.fsync(file.fileno())
        for other in written[1:]:
            other.unlink()
        if known is not None and rows < known.rows:
            self._damaged(
                facts, f"{broken} of its records cannot be read" if broken else "it was cut", known.rows - rows
            )
        return Position(size, "", rows, waiting)

    def _damaged(self, facts: RunFacts, reason: str, lost: int) -> None:
        facts.warn(
            f"warning: tensorboard/ is not what this run wrote: {reason}; {lost:,} scalars up to step "
            f"{facts.start_step:,} are lost there. metrics.jsonl has the same numbers"
        )
        facts.events.add("damaged", what="tensorboard", reason=f"{reason}; {lost:,} scalars are lost", set_aside=None)
