"""Small valid files, and parts of them that are sealed again after a change."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping

import cv2
import numpy as np

from tests.fuzz.reader import Wrap

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (12, 10, 3), np.uint8)


def encoded(suffix: str, image: np.ndarray = IMAGE, *flags: int) -> bytes:
    return cv2.imencode(suffix, image, list(flags))[1].tobytes()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(entries: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return buffer.getvalue()


def entries(entries: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> tuple[tuple[bytes, Wrap], ...]:
    """Return the parts of a zip file: each of its entries changed before it is packed."""
    return tuple(
        (content, lambda changed, name=name: zipped({**entries, name: changed}, method))
        for name, content in entries.items()
    )


def png_part(data: bytes) -> tuple[tuple[bytes, Wrap], ...]:
    """Return header and pixels of a PNG, sealed by their checksums again."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header, start = data[16:29], data[:8]
    pixels = zlib.decompress(data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8])

    def of_header(changed: bytes) -> bytes:
        return start + chunk(b"IHDR", changed[:13].ljust(13, b"\0")) + data[33:]

    def of_pixels(changed: bytes) -> bytes:
        return start + data[8:33] + chunk(b"IDAT", zlib.compress(changed)) + chunk(b"IEND", b"")

    return (header, of_header), (pixels, of_pixels)
