"""The IDX format of MNIST: a magic number, the sides as big-endian integers, and the bytes; optionally gzipped.

Source: Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits, "File formats".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from resnet_jax.errors import DataError
from resnet_jax.runtime.plain_files import open_file

MOST_BYTES = 1 << 30
"""Limit on the unpacked size; the largest set in this format, the training images of EMNIST ByClass, has 547 MB."""
_MOST_PACKED = 1032
"""Maximum number of bytes that one byte of Deflate may unpack to."""
_CHUNK = 1 << 20


def read_idx(path: Path, sides: int) -> np.ndarray:
    """Return the array of an IDX file, uint8.

    Args:
        path: path of the file; gzip is detected from its first bytes, whatever its name.
        sides: expected number of dimensions: 3 for images, 1 for labels.

    Raises:
        DataError: if it is another file, truncated, longer than its header says, or larger than :data:`MOST_BYTES`.
    """
    try:
        size = path.stat().st_size
        with open_file(path) as file:
            packed = file.read(2) == b"\x1f\x8b"
        with open_file(path) as raw, gzip.GzipFile(fileobj=raw) if packed else raw as file:
            head = file.read(4 + 4 * sides)
            expected, shape = _expected(head, sides, path)
            room = size * _MOST_PACKED if packed else size - len(head)
            if expected > MOST_BYTES:
                raise DataError(f"{path}: its header says {expected:,} bytes; at most {MOST_BYTES:,} are read")
            if expected > room:
                raise DataError(f"{path}: its header says {expected:,} bytes, which it cannot hold: it is cut short")
            data = bytearray()
            while len(data) <= expected and (chunk := file.read(min(_CHUNK, expected + 1 - len(data)))):
                data += chunk
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot read it ({getattr(error, 'strerror', None) or error})") from error
    if len(data) != expected:
        what = "it is cut short" if len(data) < expected else "there is more in it"
        raise DataError(f"{path}: its header says {expected:,} bytes, and {what}; fetch the file again")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _expected(head: bytes, sides: int, path: Path) -> tuple[int, tuple[int, ...]]:
    if len(head) < 4 + 4 * sides or head[:2] != b"\0\0":
        raise DataError(f"{path}: this is no IDX file; it begins with {head[:4].hex(' ') or 'nothing'}")
    kind, given = head[2], head[3]
    if kind != 8 or given != sides:
        raise DataError(
            f"{path}: an IDX file of type {kind:#04x} and {given} sides; need bytes (0x08) and {sides}: "
            f"{'images' if sides == 3 else 'labels'}"
        )
    shape = struct.unpack(f">{sides}I", head[4:])
    return math.prod(shape), shape
