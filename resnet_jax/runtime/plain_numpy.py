"""Untrusted NumPy files: no pickles, and no memory for what is not there.

``np.load`` allocates what the header of an array says before it looks for its values, and unpacks an archive whatever
its size. Here a header is compared with the bytes that follow it, and an archive of a few bytes that unpacks to
gigabytes, or has overlapping entries or repeated names, is rejected before memory is allocated
(:mod:`resnet_jax.runtime.limits`). All errors are ``ValueError``, except those of the file system.
"""

from __future__ import annotations

import io
import math
import sys
import zipfile
from typing import Any, BinaryIO

import numpy as np

from resnet_jax.runtime.limits import too_much_unpacked

MAGIC = b"\x93NUMPY"
_CHUNK = 1 << 24
_MOST_HEADER = 10_000


class PickledError(ValueError):
    """An array contains Python objects, which only executing a pickle would create.

    Attributes:
        array: its name.
    """

    def __init__(self, array: str):
        super().__init__("Object arrays cannot be loaded when allow_pickle=False")
        self.array = array


def read_array(data: bytes | BinaryIO) -> np.ndarray:
    """Return the array of an ``.npy`` file.

    Raises:
        ValueError: if it is invalid, truncated, or contains Python objects.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    size = _size(file)
    return _guarded(lambda: _array(file, size, "it"))


def mapped_array(path: Any) -> np.ndarray:
    """Return the array of an ``.npy`` file, memory-mapped; the caller has checked that it is a regular file.

    Raises:
        ValueError: as for :func:`read_array`.
    """
    return _guarded(lambda: np.load(path, mmap_mode="r", allow_pickle=False))


def read_arrays(data: bytes | BinaryIO) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file, by name.

    Raises:
        ValueError: if it is invalid, damaged, unpacks to too much, or contains anything but arrays.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    return _guarded(lambda: _arrays(file, _size(file)))


def read_either(data: bytes | BinaryIO) -> np.ndarray | dict[str, np.ndarray]:
    """Return the contents of an ``.npy`` or ``.npz`` file, whatever its name."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    start = file.read(len(MAGIC))
    file.seek(0)
    return read_array(file) if start == MAGIC else read_arrays(file)


def _guarded(read: Any) -> Any:
    try:
        return read()
    except MemoryError:
        raise ValueError("what it holds does not fit into memory") from None
    except ValueError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(str(error)) from error
    except Exception as error:  # of the tokenizer, struct, zip, its methods: what is damaged raises much
        raise ValueError(str(error) or type(error).__name__) from error


def _size(file: BinaryIO) -> int:
    here = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(here)
    return size


def _arrays(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no NumPy archive, which is a zip file")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.compress_size for entry in entries) > size:
            raise ValueError("its entries lie over each other")
        reason = too_much_unpacked(sum(entry.file_size for entry in entries), size)
        if reason is not None:
            raise ValueError(reason)
        found: dict[str, np.ndarray] = {}
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name in found:
                raise ValueError(f"two of its arrays are called {name!r}")
            with archive.open(entry) as member:
                found[name] = _array(member, entry.file_size, name, is_member=True)
        return found


def _array(file: Any, size: int, name: str, *, is_member: bool = False) -> np.ndarray:
    """Read an array from a file of this many bytes."""
    start = file.read(len(MAGIC) + 2)
    if not start.startswith(MAGIC):
        if is_member:
            raise ValueError(f"{name!r} is no array, so this is an ordinary zip archive: unpack it, then folder:PATH")
        raise ValueError("it does not begin as an array does")
    version = tuple(start[len(MAGIC) :])
    length_bytes = {(1, 0): 2, (2, 0): 4, (3, 0): 4}.get(version)
    if length_bytes is None:
        raise ValueError(f"{name} is of a version of the format that is not known, {version}")
    length = file.read(length_bytes)
    header = int.from_bytes(length, "little")
    if len(length) < length_bytes or header > min(_MOST_HEADER, size):
        raise ValueError(f"{name} has a header of {header:,} bytes; at most {_MOST_HEADER:,} are read")
    text = file.read(header)
    reader: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if version == (3, 0):  # as the second version, in UTF-8
        text.decode("utf-8")
    shape, in_fortran_order, dtype = reader(io.BytesIO(length + text))
    if dtype.hasobject:
        raise PickledError(name)
    count, head = math.prod(shape), len(start) + length_bytes + header
    if min(shape, default=0) < 0 or len(shape) > 32 or count * dtype.itemsize > size - head:
        raise ValueError(
            f"{name} is {dtype} {shape} by its header, and {max(size - head, 0):,} bytes follow: it is cut short or "
            "damaged"
        )
    values = np.empty(count, dtype)
    flat: Any = values.view(np.uint8) if values.nbytes else b""
    into, at = memoryview(flat), 0
    while at < len(into):
        got = file.readinto(into[at : at + _CHUNK])
        if not got:
            raise ValueError(f"{name} is cut short")
        at += got
    while is_member and file.read(_CHUNK):  # at its end an entry's checksum is compared
        pass
    if dtype.kind == "U" and values.nbytes and values.view(dtype.byteorder + "u4").max() > sys.maxunicode:
        raise ValueError(f"{name} holds texts of characters that there are not")
    return values.reshape(shape[::-1]).T if in_fortran_order else values.reshape(shape)
