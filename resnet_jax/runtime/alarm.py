"""Keeps XLA's warning about slow compilation, which tells users to file a bug, off standard error.

XLA has no flag for it: its C++ writes it as an error to descriptor 2 when a compilation takes two minutes, and again
when it ends. A log level that hides it hides every other error too. So during a compilation that takes longer than
:data:`PATIENCE`, a thread reads standard error and passes on everything but the warning, line by line. At any other
time descriptor 2 is untouched: the last words of a crashing process can only be lost during such a compilation.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

#: Seconds of a compilation after which standard error is read: less than the two minutes of the warning.
PATIENCE = 90.0
#: The warning, from its first line to its last; the second time it is preceded by another line.
ALARM = re.compile(
    rb"[^\n]*slow_operation_alarm\.cc[^\n]*\n\s*\*{8,}\s*\n[^\n]*Very slow compile\?[^\n]*\n\s*\*{8,}[^\S\n]*\n"
)
_BEGINNING = re.compile(rb"[^\n]*slow_operation_alarm\.cc")
#: Maximum length of the warning: longer text is passed on.
_LONGEST = 2000
#: Seconds allowed for the last output before the end of a compilation.
_LAST = 1.0


def without_alarm(text: bytes) -> tuple[bytes, bytes]:
    r"""Return the part of a text that can be passed on, and the rest: a partial line, or the start of a warning.

    >>> without_alarm(b"one\ntwo")
    (b'one\n', b'two')
    """
    text = ALARM.sub(b"", text)
    begun = _BEGINNING.search(text)
    keep = text.rfind(b"\n") + 1 if begun is None else begun.start()
    return (text, b"") if len(text) - keep > _LONGEST else (text[:keep], text[keep:])


class _Reader:
    """Reads what is written to descriptor 2 and passes it on without the warning, until it is closed."""

    def __init__(self) -> None:
        self._out = os.dup(2)
        source, sink = os.pipe()
        os.dup2(sink, 2)
        os.close(sink)
        self._thread = threading.Thread(target=self._pass_on, args=[source], daemon=True, name="standard error")
        self._thread.start()

    def _pass_on(self, source: int) -> None:
        rest = b""
        while chunk := os.read(source, 1 << 16):  # to the end: a process that was started meanwhile writes there too
            text, rest = without_alarm(rest + chunk)
            self._write(text)
        self._write(rest)
        os.close(source)
        os.close(self._out)

    def _write(self, text: bytes) -> None:
        with contextlib.suppress(OSError):
            while text:
                text = text[os.write(self._out, text) :]

    def close(self) -> None:
        """Restore descriptor 2; everything written has been passed on."""
        os.dup2(self._out, 2)
        self._thread.join(_LAST)


class _Watch:
    """The compilations in progress, and the reader of standard error if one of them takes long."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self._reader: _Reader | None = None

    def begin(self) -> None:
        with self._lock:
            self._under_way += 1

    def takes_long(self) -> None:
        with self._lock, contextlib.suppress(OSError):  # there is no standard error, or no descriptor is left
            if self._under_way and self._reader is None:
                self._reader = _Reader()

    def end(self) -> None:
        with self._lock:
            self._under_way -= 1
            if not self._under_way and self._reader is not None:
                self._reader.close()
                self._reader = None


_watch = _Watch()


@contextlib.contextmanager
def no_alarm(patience: float | None = None) -> Iterator[None]:
    """Keep the warning about compilations within the block off standard error.

    Args:
        patience: seconds until standard error is read; None: :data:`PATIENCE`.
    """
    timer = threading.Timer(PATIENCE if patience is None else patience, _watch.takes_long)
    timer.daemon = True
    _watch.begin()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _watch.end()


def let_jax_compile_without() -> bool:
    """Wrap every compilation of JAX in :func:`no_alarm`.

    Returns:
        Whether this version of JAX supports it; otherwise the warning is shown.
    """
    try:
        from jax._src import compiler

        theirs: Any = compiler.backend_compile_and_load
    except (ImportError, AttributeError):
        return False
    if getattr(theirs, "without_alarm", False):
        return True

    @functools.wraps(theirs)
    def backend_compile_and_load(*args: Any, **kwargs: Any) -> Any:
        with no_alarm():
            return theirs(*args, **kwargs)

    backend_compile_and_load.without_alarm = True  # pyright: ignore[reportAttributeAccessIssue]
    compiler.backend_compile_and_load = backend_compile_and_load
    return True
