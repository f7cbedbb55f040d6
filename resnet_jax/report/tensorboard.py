"""TensorBoard event files, written without TensorFlow. A training observer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from resnet_jax.report.trackers import Scalars
from resnet_jax.training.observers import Row, RunFacts


class TensorBoard(Scalars):
    """Writes the scalars of every epoch and of logged steps into ``tensorboard/`` of the run directory.

    Events are written by the caller's own thread: tensorboardX's ``SummaryWriter`` has one of its own, and where that
    one cannot write (a full disk), its queue fills up and training waits for ever.

    Raises:
        OSError: the directory cannot be written; from the methods.
    """

    _writer: Any = None

    def on_start(self, facts: RunFacts) -> None:
        """Open the file; TensorBoard hides what an earlier session wrote after the step that this one starts at."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        super().on_start(facts)
        folder, start = facts.run_dir / "tensorboard", facts.start_step
        folder.mkdir(parents=True, exist_ok=True)
        messages: Any = event_pb2  # made at run time
        self._event, self._scalar = messages.Event, scalar
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{start}")
        if start:
            session = messages.SessionLog(status=messages.SessionLog.START)
            self._writer.write_event(self._event(wall_time=time.time(), step=start + 1, session_log=session))

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Write an event for each."""
        for tag, value in scalars.items():
            event = self._event(wall_time=time.time(), step=step, summary=self._scalar(tag, value))
            self._writer.write_event(event)

    def on_epoch(self, row: Row) -> None:
        """Write the means of an epoch and its validation, and flush."""
        super().on_epoch(row)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
