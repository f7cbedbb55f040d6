"""TensorBoard event files, written without TensorFlow. An observer of the loop."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from resnet_jax.training.cadence import Cadence, Ticker


class TensorBoard:
    """Writes the scalars of every epoch, and of every ``every``-th step.

    Events are written by the caller's own thread: tensorboardX's ``SummaryWriter`` has one of its own, and where that
    one cannot write (a full disk), its queue fills up and training waits for ever.

    Args:
        folder: log directory.
        start_step: updates done when this session begins; TensorBoard hides what an earlier one wrote after it.
        every: how often there are scalars of a step; a number is in steps.

    Raises:
        OSError: the directory cannot be written; also from the methods.
    """

    def __init__(self, folder: Path, *, start_step: int, every: Cadence | int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        folder.mkdir(parents=True, exist_ok=True)
        messages: Any = event_pb2  # made at run time
        self._event, self._scalar, self._ticker = messages.Event, scalar, Ticker(every)
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{start_step}")
        if start_step:
            start = messages.SessionLog(status=messages.SessionLog.START)
            self._writer.write_event(self._event(wall_time=time.time(), step=start_step + 1, session_log=start))

    def on_step(self, row: dict[str, float]) -> None:
        """Write loss, accuracy and gradient norm of a batch if its step is due."""
        if self._ticker.is_due(int(row["step"])):
            self._write("step", row)

    def on_epoch(self, row: dict[str, float]) -> None:
        """Write the means of an epoch and its validation, and flush."""
        self._write("epoch", row)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()

    def _write(self, group: str, row: dict[str, float]) -> None:
        for name, value in row.items():
            if name not in ("step", "epoch") and math.isfinite(value):
                summary = self._scalar(f"{group}/{name}", value)
                self._writer.write_event(self._event(wall_time=time.time(), step=int(row["step"]), summary=summary))
