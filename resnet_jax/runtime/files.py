"""Files that are written atomically: a process killed meanwhile leaves the old one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which becomes ``path`` when the block ends, and is removed if it fails.

    Raises:
        OSError: if it cannot be written; with ``path``.
    """
    partial = path.with_name(path.name + ".tmp")
    try:
        if partial.is_symlink():  # somebody else's: it would be written through
            partial.unlink()
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text atomically as UTF-8, whatever the locale.

    What UTF-8 cannot represent (half a surrogate pair) becomes its escape. The text is on disk when this returns: after
    a power failure, there is the old file or the new one.

    Raises:
        OSError: if it cannot be written; with its path.
    """
    how: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
    with replacing(path) as partial, partial.open("w", **how) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(OSError):  # a file system that cannot do this for a directory
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Appended:
    """A file to which lines are appended one by one, immediately.

    Args:
        path: the file.

    Raises:
        OSError: if it cannot be written, on construction and from the methods; with its path.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("a", buffering=1, encoding="utf-8")

    def write(self, line: str) -> None:
        """Append a line."""
        self._named(lambda: self._file.write(line + "\n"))

    def close(self) -> None:
        """Close the file."""
        self._named(self._file.close)

    def _named(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self._path)) from error
