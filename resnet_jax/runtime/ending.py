"""How the process of a command ends: in bounded time, whatever its threads are waiting for."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

#: Seconds allowed for the last output, which nobody may be reading.
LAST_WORDS = 0.5

#: Seconds that a process may take to end once it has announced it.
ENDING = 10.0


class Stopped(Exception):
    """A long-running command was stopped by a signal, and has finished its work.

    Args:
        signal: the signal.
        done: what it has done.
    """

    def __init__(self, signal: signal.Signals, done: str):
        super().__init__(f"{signal.name}: {done}")
        self.signal = signal


_owned = False
_before: list[Callable[[], None]] = []


def own_process(owned: bool = True) -> None:
    """Declare that this process belongs to a command, so that signals may end it; not so in a notebook.

    Args:
        owned: whether it does.
    """
    global _owned
    _owned = owned


def is_owned() -> bool:
    """Return whether this process belongs to a command."""
    return _owned


def before_the_end(call: Callable[[], None]) -> None:
    """Call a function when this process ends, even at once; only a signal that kills it prevents that.

    Args:
        call: must not wait for anything.
    """
    _before.append(call)
    atexit.register(call)


def _end(status: int) -> None:
    for call in _before:
        with suppress(Exception):
            call()
    os._exit(status)


def stop_quietly() -> None:
    """Let Ctrl-C end this process at once during imports, where libraries may lose a KeyboardInterrupt.

    Elsewhere it raises one, as usual. That too may be lost, in a destructor or a library that catches everything: a
    process that has not ended after some seconds, or in which it is pressed again, is ended.
    """
    pressed_before = False

    def pressed(number: int, frame: FrameType | None) -> None:
        nonlocal pressed_before
        while not pressed_before and frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
            frame = frame.f_back
        if frame is not None:
            leave(signal.Signals(number), "Stopped at once.\n")
        pressed_before = True
        threading.Thread(target=wait, args=[signal.Signals(number)], daemon=True, name="Ctrl-C").start()
        raise KeyboardInterrupt

    def wait(number: signal.Signals) -> None:
        time.sleep(ENDING)
        leave(number, "Stopped at once.\n")

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not one that is ignored, as in the background
        with suppress(ValueError):  # in another thread than the main one
            signal.signal(signal.SIGINT, pressed)


def say_no_more(lost: sys.UnraisableHookArgs) -> None:
    """Act as the ``sys.unraisablehook`` of a command: silent, but a Ctrl-C lost in a destructor ends the process."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        leave(signal.SIGINT, "Stopped at once.\n")


def end_in_bounded_time(status: int, seconds: float = ENDING) -> None:
    """End this process with ``status`` after this many seconds, if hanging threads keep it from ending before."""

    def end() -> None:
        time.sleep(seconds)
        _end(status)

    threading.Thread(target=end, daemon=True, name="end in bounded time").start()


def exit_now(status: int) -> None:
    """End a command's process here, because libraries torn down in the middle of a compilation may crash."""
    if not _owned:
        return

    def flush() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()

    thread = threading.Thread(target=flush, daemon=True)
    thread.start()
    thread.join(LAST_WORDS)
    _end(status)


def leave(number: signal.Signals, words: str) -> None:
    """End this process now, whatever its threads are doing, with the status of a signal."""
    last_words(words)
    _end(128 + number)


def last_words(words: str) -> None:
    """Print on standard error, without waiting for a reader."""

    def write() -> None:
        with suppress(OSError):
            os.write(2, words.encode())

    if sys.stderr is None:
        return
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(LAST_WORDS)
