"""The thread that turns a saved state into a checkpoint: waits for Orbax, computes digests, and renames the result.

The loop only waits for the copy from the devices to the host. Everything else happens here, one save after the other,
at low priority: before the final rename there is no checkpoint, and after it there is one with its manifest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from resnet_jax.errors import RunError
from resnet_jax.runtime.events import EventLog
from resnet_jax.training.checkpoint_folder import CheckpointFolder, Kind
from resnet_jax.training.manifest import Score, copy_verified, digest_files, stamped, write_manifest


@dataclasses.dataclass(frozen=True)
class Pending:
    """A state that Orbax has copied and is writing.

    Attributes:
        kind: ``last`` or ``best``.
        step: number of updates done.
        response: Orbax's response; ``.result()`` waits, and ends its thread.
        score: for ``best``, its score; for ``last``, the score to also keep it as ``best`` with.
        blocked: seconds that the loop waited.
    """

    kind: Kind
    step: int
    response: Any
    score: Score | None
    blocked: float


class CheckpointWriter:
    """Finishes saves in the order in which they arrive.

    Args:
        folder: the folder of the checkpoints.
        events: the log of events.
        tidy: called after each save to delete superfluous checkpoints. None in processes other than the main one, which
            only wait for Orbax.
    """

    def __init__(self, folder: CheckpointFolder, events: EventLog, tidy: Callable[[], None] | None) -> None:
        self._folder, self._events, self._tidy = folder, events, tidy
        self._queue: queue.Queue[Pending | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._failures: list[RunError] = []
        self._began: float | None = None
        self._took: float | None = None

    def add(self, pending: Pending) -> None:
        """Finish a save in the background."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
            self._thread.start()
        self._began = time.monotonic()
        self._queue.put(pending)

    @property
    def is_busy(self) -> bool:
        """Whether something is being written."""
        return self._began is not None

    @property
    def seconds_left(self) -> float:
        """Estimate how many seconds the current write still takes, from the one before; 0 if unknown or idle."""
        began = self._began
        if began is None or self._took is None:
            return 0.0
        return max(began + self._took - time.monotonic(), 0.0)

    def wait(self) -> None:
        """Wait until nothing is being written."""
        self._queue.join()

    def take_failure(self) -> RunError | None:
        """Return, once, why a save failed, or None."""
        return self._failures.pop(0) if self._failures else None

    def close(self) -> None:
        """Wait, and end the thread; it restarts when needed."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # one thread's own on Linux; elsewhere it is left as it is
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while True:
            pending = self._queue.get()
            try:
                if pending is None:
                    return
                self._finish(pending)
            finally:
                self._queue.task_done()

    def _finish(self, pending: Pending) -> None:
        began = time.monotonic()
        try:
            pending.response.result()
            if self._tidy is not None:
                self._complete(pending, began)
        except Exception as error:  # whatever it is: the training goes on, and hears of it
            self._fail(pending.kind, pending.step, error)
        finally:
            self._took, self._began = time.monotonic() - began, None

    def _complete(self, pending: Pending, began: float) -> None:
        folder, kind, step = self._folder, pending.kind, pending.step
        staged = folder.unfinished(kind, step)
        files = digest_files(staged)
        score = pending.score if kind == "best" else None
        write_manifest(staged, stamped(kind, step, files, score))
        if kind == "last" and pending.score is not None:  # before it: what resumes from this one has its best state
            self._copy_as_best(step, files, pending.score, began)
        folder.commit(kind, step)
        self._saved(kind, step, files, began, pending.blocked)
        assert self._tidy is not None
        self._tidy()

    def _copy_as_best(self, step: int, files: dict[str, tuple[int, str]], score: Score, began: float) -> None:
        """Keep the state as ``best`` too, as a separate copy, so that damage to one leaves the other intact."""
        try:
            staged = self._folder.unfinished("best", step)
            copy_verified(self._folder.unfinished("last", step), staged, files)
            write_manifest(staged, stamped("best", step, files, score))
            self._folder.commit("best", step)
        except Exception as error:
            self._fail("best", step, error)
        else:
            self._saved("best", step, files, began, 0.0)

    def _saved(self, kind: Kind, step: int, files: dict[str, tuple[int, str]], began: float, blocked: float) -> None:
        size, seconds = sum(size for size, _ in files.values()), time.monotonic() - began
        self._events.add("save", kind=kind, step=step, bytes=size, seconds=round(seconds, 4), blocked=round(blocked, 4))

    def _fail(self, kind: Kind, step: int, error: Exception) -> None:
        if self._tidy is not None:
            self._folder.clear(kind, step)  # of a full disk it takes the last of the space
        reason = reason_of(error)
        failure = SaveError(self._folder, kind, reason)
        failure.__cause__ = error
        self._failures.append(failure)
        if not self._folder.is_home:
            self._folder.take_back()
            return
        self._events.add("save_failed", kind=kind, step=step, reason=reason)


class SaveError(RunError):
    """A checkpoint could not be written: one sentence, although Orbax reports one per thread.

    Attributes:
        what: what happened, without advice.
        reason: the reason, in the system's words.
    """

    def __init__(self, folder: CheckpointFolder, kind: Kind, reason: str) -> None:
        self.reason = reason
        self.what = f"cannot write a checkpoint in {folder.path / kind}: {reason}. Earlier checkpoints are kept"
        super().__init__(f"{self.what}; free some space or repair it, and resume with the same command")


def reason_of(error: BaseException) -> str:
    """Return the system's message, without the text that Orbax and TensorStore add to it."""
    text = str(error).strip() or type(error).__name__
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO, errno.EMFILE):
        if getattr(error, "errno", None) == number or os.strerror(number) in text:
            return os.strerror(number)
    return text.splitlines()[0][:300]
