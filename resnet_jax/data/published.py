"""The files of a published archive, from the folder it was unpacked to or from the downloaded archive.

Nothing is unpacked to disk. Only files with known names are read from an archive, by the last part of their path:
links, devices and paths to elsewhere do not matter, because they are not followed.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, cast

from resnet_jax.errors import DataError
from resnet_jax.runtime.plain_files import open_file, read_file

MOST_BYTES = 1 << 30
"""Limit on the total unpacked size; the largest archive read here, CIFAR-100 for Python, has 186 MB."""
_CHUNK = 1 << 20


def read_files(path: Path, wanted: Callable[[str], bool]) -> Mapping[str, bytes]:
    """Return the files with wanted names in a folder or a tar archive, gzipped or not.

    Args:
        path: the folder or archive.
        wanted: whether a file with this name (without folders) is wanted.

    Raises:
        DataError: if it cannot be read, is damaged, contains a name twice or more than :data:`MOST_BYTES`.
    """
    return _in_folder(path, wanted) if path.is_dir() else _in_archive(path, wanted)


def _in_folder(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        files = sorted(file for file in path.iterdir() if wanted(file.name) and file.is_file())
        if sum(file.stat().st_size for file in files) > MOST_BYTES:
            raise DataError(f"{path}: its files have more than {MOST_BYTES >> 20:,} MiB; they are no such archive")
        for file in files:
            found[file.name] = read_file(file, MOST_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror or error})") from error
    return found


def _in_archive(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    total = 0
    try:
        with _opened(path) as file, tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                total += member.size
                if total > MOST_BYTES:
                    raise DataError(f"{path}: it unpacks to more than {MOST_BYTES >> 20:,} MiB; it is no such archive")
                name = member.name.rpartition("/")[2]
                if not wanted(name):
                    continue
                if not member.isreg():
                    raise DataError(f"{path}: {member.name} is no file but a link or device, which is not followed")
                if name in found:
                    raise DataError(f"{path}: two files are called {name}; unpack the archive and name one folder")
                content = archive.extractfile(member)
                found[name] = content.read() if content is not None else b""
                if len(found[name]) != member.size:
                    raise DataError(f"{path}: {member.name} is cut short; fetch the archive again")
            while chunk := file.read(_CHUNK):  # to the checksum at the end
                total += len(chunk)
                if total > MOST_BYTES:
                    raise DataError(f"{path}: it unpacks to more than {MOST_BYTES >> 20:,} MiB; it is no such archive")
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{path}: cannot read it as a tar archive ({reason}); fetch it again") from error
    return found


def _opened(path: Path) -> IO[bytes]:
    with open_file(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path, "rb")) if packed else open_file(path)
