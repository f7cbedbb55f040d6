"""Stopping on purpose: Ctrl-C and SIGTERM ask the loop to stop at the next step, so that it can save first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody asked for the run to stop, and with which signal.

    Attributes:
        signal: the signal that asked, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request for the time of the block; a second one acts as it did before.

    Outside the main thread, where Python allows no handlers, the request stays empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in watched}

    def handle(number: int, _frame: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        signal.signal(number, before[request.signal] or signal.SIG_DFL)

    for number in watched:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number in watched:
            signal.signal(number, before[number] or signal.SIG_DFL)
