"""What a session records about itself as it goes: its position, rejected updates, and how it ended."""

from __future__ import annotations

from resnet_jax.errors import RunError
from resnet_jax.report.views import one_line
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.position import Position
from resnet_jax.runs.presence import Presence
from resnet_jax.runtime.events import EventLog
from resnet_jax.runtime.processes import is_main
from resnet_jax.training.interrupt import Interrupted
from resnet_jax.training.observers import Observer, Row


class SessionLog(Observer):
    """Observer that keeps ``.position`` and the events of a training, as long as the run directory exists.

    Args:
        run: the directory.
        events: the log.
        start_step: number of updates done when the session begins.

    Raises:
        RunError: from the methods, if the directory is gone.
    """

    def __init__(self, run: RunDirectory, events: EventLog, start_step: int) -> None:
        self._events, self._step = events, start_step
        self._position = Position(run.position if is_main() else None, start_step)
        self._presence = Presence(run.path)

    @property
    def is_there(self) -> bool:
        """Whether the run directory exists."""
        return self._presence.is_there

    def require(self) -> None:
        """Check that the run directory exists.

        Raises:
            RunError: if it does not.
        """
        self._presence.require()

    def on_step(self, row: Row) -> None:
        """Record the position."""
        self._step = int(row["step"])
        self._position.on_step(row)
        self._presence.on_step(row)

    def on_reject(self, row: Row) -> None:
        """Log it."""
        member = {"member": row["member"]} if "member" in row else {}
        facts = {"loss": row["loss"], "grad_norm": row["grad_norm"], "in_a_row": row["rejected"]}
        self._events.add("reject", step=int(row["step"]), **member, **facts)

    def ended(self, error: BaseException) -> None:
        """Log that the session ends before the run does."""
        if not self.is_there:
            return
        reason, step = one_line(error), self._step
        if isinstance(error, Interrupted):
            step = error.step
            reason = error.request.signal.name if error.request.signal else "asked to"
        elif isinstance(error, RunError):
            reason = str(error).partition(". ")[0].splitlines()[0]
        self._events.add("stop", step=step, reason=reason)

    def close(self) -> None:
        """Close the file."""
        self._position.close()
