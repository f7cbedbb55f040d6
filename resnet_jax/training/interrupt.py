"""Stopping on purpose: Ctrl-C, SIGTERM and a closed terminal ask the loop to save and stop at the next step.

In a process that belongs to a command (:func:`resnet_jax.runtime.ending.own_process`), nothing can prevent stopping: a
second signal ends it at once, even while the main thread hangs in a compiler or in a write to an unresponsive disk,
because a separate thread receives it. Before the first step of a session there is nothing to save, and the first signal
ends the process.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from resnet_jax.runtime.ending import ENDING, is_owned, last_words, leave

#: Seconds within which a repeated signal counts as the same one: a terminal or a service manager sends it to every
#: process of a command, and processes that start others (``uv run``, ``srun``) forward it.
SAME = 0.3

#: Seconds that the main thread has to react to the first signal if there is nothing to save.
GRACE = 1.0


class StopRequest:
    """Whether the run was asked to stop, and by which signal.

    Attributes:
        signal: the signal that asked, or None.
        begun: whether a step has been made in this session, so that there is something to save; set by the loop.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.begun = False

    def __bool__(self) -> bool:
        return self.signal is not None


class Interrupted(Exception):
    """Training was asked to stop and has saved its state after ``step`` updates. All processes stop alike."""

    in_all_processes = True

    def __init__(self, step: int, request: StopRequest):
        super().__init__(f"stopped after step {step}")
        self.step, self.request = step, request


class StoppedAtOnce(KeyboardInterrupt):
    """The command was asked to stop before the first step, when there was nothing to save."""

    def __init__(self, signal: signal.Signals):
        super().__init__(f"stopped by {signal.name} before a step was made")
        self.signal = signal


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within the block, turn SIGINT, SIGTERM and SIGHUP into a stop request; a second signal acts as before.

    Signals that this process was started to ignore (``nohup``, a shell's background job) stay ignored. Outside the main
    thread, where Python allows no handlers, the request stays empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    watched = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in watched if signal.getsignal(number) != signal.SIG_IGN}
    owner = _Owner(request) if is_owned() else None

    def handle(number: int, _frame: FrameType | None) -> None:
        first = request.signal is None
        if first:
            request.signal = signal.Signals(number)
        if owner is not None:
            owner.handled(signal.Signals(number), first=first)
        else:
            signal.signal(number, before[number] or signal.SIG_DFL)

    for number in before:
        signal.signal(number, handle)
    if owner is not None:
        owner.start()
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if owner is not None:
            owner.close()


class _Owner:
    """Signal handling for a process of its own: a thread receives signals whatever the main thread is doing.

    Args:
        request: set by the main thread.
    """

    def __init__(self, request: StopRequest) -> None:
        self._request = request
        self._first: float | None = None
        self._raised, self._stopping = False, threading.Event()
        self._lock = threading.Lock()
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._before = -1
        self._thread = threading.Thread(target=self._listen, daemon=True, name="signals")

    def start(self) -> None:
        """Start listening."""
        self._before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        signal.set_wakeup_fd(self._before)
        self._stopping.set()
        self._write.close()  # the thread reads the end
        self._thread.join(timeout=GRACE)
        self._read.close()

    def handled(self, number: signal.Signals, *, first: bool) -> None:
        """Handle a signal that has reached the main thread.

        Raises:
            StoppedAtOnce: if there is nothing to save.
        """
        if first and not self._request.begun:
            self._raised = True
            raise StoppedAtOnce(number)
        self._arrived(number)

    def _listen(self) -> None:
        """Handle signals in a separate thread."""
        while True:
            try:
                numbers = self._read.recv(64)
            except OSError:
                return
            if not numbers:
                return
            for number in numbers:
                with suppress(ValueError):
                    self._arrived(signal.Signals(number))

    def _arrived(self, number: signal.Signals) -> None:
        """Record a signal, which both threads may receive."""
        now = time.monotonic()
        with self._lock:
            first = self._first is None
            if self._first is None:
                self._first = now
            again = now - self._first >= SAME and number != getattr(signal, "SIGHUP", None)
        if again:
            leave(number, f"\n{number.name} again: exiting at once; everything saved before is kept.\n")
        if not first:
            return
        if self._request.begun:
            last_words(f"\n{number.name}: stopping after this step, saving first; Ctrl-C again to exit at once.\n")
            return
        threading.Thread(target=self._unless_heard, args=(number,), daemon=True).start()

    def _unless_heard(self, number: signal.Signals) -> None:
        """End the process if the main thread does not notice a signal, as while in a compiler, or does not end."""
        if self._stopping.wait(GRACE) or (self._raised and self._stopping.wait(ENDING)):
            return
        if not self._request.begun:
            leave(number, f"\n{number.name}: stopped before a step was made; everything saved before is kept.\n")
