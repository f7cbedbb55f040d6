"""TensorBoard event files, written without TensorFlow. An observer of the loop."""

from __future__ import annotations

import math
from pathlib import Path


class TensorBoard:
    """Writes the scalars of every epoch, and of every ``every``-th step.

    Args:
        folder: log directory.
        start_step: updates done when this session begins; TensorBoard hides what an earlier one wrote after it.
        every: steps between training scalars.
    """

    def __init__(self, folder: Path, *, start_step: int, every: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else None)
        self._every = every

    def on_step(self, row: dict[str, float]) -> None:
        """Write loss, accuracy and gradient norm of a batch if its step is due."""
        if row["step"] % self._every == 0:
            self._write("step", row)

    def on_epoch(self, row: dict[str, float]) -> None:
        """Write the means of an epoch and its validation."""
        self._write("epoch", row)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()

    def _write(self, group: str, row: dict[str, float]) -> None:
        for name, value in row.items():
            if name not in ("step", "epoch") and math.isfinite(value):
                self._writer.add_scalar(f"{group}/{name}", value, int(row["step"]))
