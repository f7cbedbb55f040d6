"""Opening of regular files only: no pipe that waits forever, no device without an end.

A name chosen by someone else may refer to a pipe (opening it waits for a writer), to ``/dev/zero`` (reading it never
ends), to a terminal or to a socket. Anything but a regular file is rejected before a byte is read. Errors are
``OSError`` with a message, like those of the system. An unresponsive network file system still blocks: there is no way
to give up on it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISDIR, errno.EISDIR, "this is a folder and no file"),
    (stat.S_ISFIFO, errno.EINVAL, "this is a pipe and no file"),
    (stat.S_ISSOCK, errno.EINVAL, "this is a socket and no file"),
    (stat.S_ISCHR, errno.EINVAL, "this is a device and no file"),
    (stat.S_ISBLK, errno.EINVAL, "this is a device and no file"),
)
_FLAGS = (
    os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)  # fmt: skip


def open_descriptor(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Open a regular file.

    Returns:
        Its descriptor, which the caller must close, and its size.

    Raises:
        OSError: if it does not exist, cannot be read, or is not a regular file; the message says what it is.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, str(error), os.fspath(path)) from None
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "this is a socket and no file", os.fspath(path)) from None
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        return descriptor, found.st_size
    os.close(descriptor)
    for is_kind, number, said in _KINDS:
        if is_kind(found.st_mode):
            raise OSError(number, said, os.fspath(path))
    raise OSError(errno.EINVAL, "this is no file", os.fspath(path))


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading bytes; see :func:`open_descriptor`."""
    return open(open_descriptor(path)[0], "rb")


def read_file(path: str | os.PathLike[str], most: int | None = None, how: str = "") -> bytes:
    """Return the contents of a regular file.

    Args:
        path: path of the file.
        most: maximum size in bytes; None for any.
        how: clause for the message about a larger one.

    Raises:
        OSError: as for :func:`open_descriptor`, or if it is larger than that.
    """
    descriptor, size = open_descriptor(path)
    with open(descriptor, "rb") as file:
        if most is not None and size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes; {how or f'at most {most:,} are read'}", os.fspath(path))
        return file.read(size)  # no more, though it may be growing


TEXT_BYTES = 64 << 20
"""Maximum size of a text written by a person or this package."""


def read_text(path: str | os.PathLike[str], most: int = TEXT_BYTES, encoding: str = "utf-8") -> str:
    """Return a text; see :func:`read_file`.

    Raises:
        OSError: as there.
        UnicodeDecodeError: if it is not one.
    """
    return read_file(Path(path), most).decode(encoding)
