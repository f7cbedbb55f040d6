"""Files that are written in one piece or not at all: a process killed meanwhile leaves the old one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes ``path`` when the block ends, and is removed where it fails.

    Raises:
        OSError: it cannot be written; with ``path``.
    """
    partial = path.with_name(path.name + ".tmp")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text in one piece, as UTF-8, whatever the locale.

    What UTF-8 cannot hold (half a surrogate pair) becomes its escape.

    Raises:
        OSError: it cannot be written; with its path.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
