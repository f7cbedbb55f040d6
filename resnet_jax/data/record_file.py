"""An ArrayRecord file: random access to records, from several threads and after pickling, and atomic writing.

The time of the library reader's ``read([number])`` grows with the number of records in the file, 9 milliseconds with a
million of them; ``read(number, number + 1)`` returns the same bytes in 15 microseconds, and as safely
(experiments/benchmarks/records_index.py). Every record has a checksum that is verified when it is read.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_jax.errors import DataError
from resnet_jax.runtime.files import replacing
from resnet_jax.runtime.plain_files import open_file

READ_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
"""For random access: nothing is read ahead, and nothing waits for another thread."""
BUFFER = 1 << 15
"""Minimum number of bytes of the file that one read takes."""


class RecordFile:
    """An ArrayRecord file that is open for reading.

    Args:
        path: the file. It is opened immediately; a copy made by pickling reopens it on first read.

    Raises:
        DataError: if it does not exist, is truncated, or is not such a file.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._reader: Any = _open(self.path)
        self._count = int(self._reader.num_records())

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int, /) -> bytes:
        """Return one record.

        Raises:
            DataError: if it is damaged, or the file has been replaced.
        """
        if not 0 <= number < self._count:
            raise IndexError(f"record {number} of {self._count} in {self.path}")
        reader = self._reader or self._open_again()
        try:
            return reader.read(number, number + 1)[0]
        except (RuntimeError, OSError, ValueError, IndexError) as error:
            raise DataError(
                f"{self.path}: record {number:,} of {self._count:,} is damaged ({_first(error)}); copy or make the "
                "file again"
            ) from error

    def close(self) -> None:
        """Close the file; it is reopened when read."""
        with self._lock:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()

    def _open_again(self) -> Any:
        with self._lock:
            if self._reader is None:
                reader = _open(self.path)
                if reader.num_records() != self._count:
                    raise DataError(
                        f"{self.path}: it had {self._count:,} records and has {reader.num_records():,} now: somebody "
                        "replaced it while it was read"
                    )
                self._reader = reader
            return self._reader

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_count": self._count}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _reader=None)


def _library() -> Any:
    """Return the library, which is only available for Linux and macOS.

    Raises:
        DataError: if it is not installed.
    """
    try:
        return importlib.import_module("array_record.python.array_record_module")
    except ImportError as error:
        raise DataError(
            f"ArrayRecord files need the package array-record: pip install array-record ({error})"
        ) from error


def _open(path: str) -> Any:
    library = _library()
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror or error})") from error
    try:
        reader = library.ArrayRecordReader(path, READ_OPTIONS, file_reader_buffer_size=BUFFER)
        whole = reader.ok()
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{path}: cannot read it as ArrayRecord ({_first(error)})") from error
    if not whole:
        raise DataError(
            f"{path}: these {size:,} bytes are no whole ArrayRecord file: cut short, damaged or of another kind; copy "
            "or make it again"
        )
    return reader


@contextlib.contextmanager
def writing(path: Path, *, compress: bool) -> Iterator[Any]:
    """Yield a function that appends a record, to a file that becomes ``path`` when the block ends.

    Args:
        path: the file.
        compress: whether to compress with zstd, which only slows down data that is already compressed, such as JPEG.

    Raises:
        DataError: if it cannot be written; nothing is left behind.
    """
    library = _library()
    try:
        with replacing(path) as partial:
            writer = library.ArrayRecordWriter(str(partial), f"group_size:1,{'zstd:3' if compress else 'uncompressed'}")
            done = False

            def append(record: bytes) -> None:
                writer.write(record)
                if not writer.ok():
                    _finish(writer, path)

            try:
                yield append
                done = True
            finally:
                if done:
                    _finish(writer, path)
                else:
                    with contextlib.suppress(RuntimeError):
                        writer.close()
    except OSError as error:
        raise DataError(f"{path}: cannot write it ({error.strerror or error})") from error


def _finish(writer: Any, path: Path) -> None:
    """Close a writer, which only then reports errors, such as a full disk."""
    try:
        writer.close()
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{path}: cannot write it ({_first(error)}); nothing is left of it") from error


def _first(error: Exception) -> str:
    """Return the library's message without the position in its own code."""
    return str(error).partition(";")[0].removeprefix("write() failed: ").strip() or type(error).__name__
