r"""Standard output and standard error streams whose failure never stops the work.

A character that the encoding lacks is written as its escape (``\u2500``). A stream that can no longer be written (a
closed pipe, a full disk) is ignored from then on: a command's results are in files, and its exit status reports that
the stream failed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
from typing import Any, TextIO, cast

#: Exit status of a program whose reader is gone: 128 + SIGPIPE.
READER_GONE = 141


class Steady:
    """A text stream that never raises; the first error is kept in ``failed``.

    Args:
        stream: the underlying stream.
        name: its name in messages.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self.name_of_stream = stream, name
        self.failed: Exception | None = None
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and stream.errors in (None, "strict"):
            reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write, if the stream still works."""
        if self.failed is None:
            try:
                self._stream.write(text)
            except UnicodeError:
                encoding = self._stream.encoding or "ascii"
                self._try(lambda: self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding)))
            except (OSError, ValueError) as error:  # ValueError: it was closed
                self._fail(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, if the stream still works."""
        if self.failed is None:
            self._try(self._stream.flush)

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self.failed is None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, call: Any) -> None:
        try:
            call()
        except (OSError, ValueError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        import os

        self.failed = error
        try:  # what is still in its buffer would fail again when the process ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            pass


def open_streams() -> None:
    """Open the descriptors 0, 1 and 2 if they are closed; otherwise a file opened later would get that number and be
    printed into.

    Python's own streams stay closed, and what is printed is discarded.
    """
    import os

    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one, for those below are open
            if nowhere != number:
                os.close(nowhere)


def steady_streams() -> None:
    """Make the process's standard output and error steady; a stream that was closed from the start stays None."""
    for name, text in (("stdout", "standard output"), ("stderr", "standard error")):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Steady):
            setattr(sys, name, cast(TextIO, Steady(stream, text)))


def final_status(status: int) -> int:
    """Return the exit status of a command: that of its work, or of its output if only that failed, which is then
    reported.

    Args:
        status: the status of the work.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Steady):
            stream.flush()
    out = sys.stdout
    if not isinstance(out, Steady) or out.failed is None or status != 0:
        return status
    if isinstance(out.failed, OSError) and out.failed.errno in (errno.EPIPE, errno.ESHUTDOWN):
        return READER_GONE
    reason = getattr(out.failed, "strerror", None) or out.failed
    print(f"error: {out.name_of_stream} could not be written: {reason}. The command itself is done.", file=sys.stderr)
    return 1


class _Plain(logging.Handler):
    """Prints only the message of a log record, to the current standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        with contextlib.suppress(Exception):
            print(self.format(record), file=sys.stderr)


def plain_log_lines() -> None:
    """Print log warnings as plain lines; a library that logs first would otherwise add its own prefix to ours."""
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(_Plain())
