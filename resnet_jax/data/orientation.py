"""The orientation tag that a camera writes to Exif data, read and applied.

A camera writes the rows of its sensor and a number from 1 to 8 that says how to rotate or mirror them. It is in the
Exif data of JPEG (segment APP1), PNG (chunk ``eXIf``) and WebP (chunk ``EXIF``). TIFF and AVIF are rotated by their
decoders.

Source: CIPA DC-008 (Exif 2.32), 4.6.4 A, tag 274; PNG 3rd edition, 11.3.2.5; RFC 9649, 2.7.1.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from resnet_jax.data.headers import TIFF_STARTS, jpeg_segments, tiff_tags

ORIENTATION = 274
_APP1 = 0xE1


def orientation_of(data: bytes) -> int:
    """Return the orientation, 1 to 8, of a JPEG, PNG or WebP file; 1 if there is none or it is invalid.

    Args:
        data: the whole file.
    """
    exif = _exif_of(data)
    if exif is None or not exif.startswith(TIFF_STARTS):
        return 1
    try:
        value = tiff_tags(exif).get(ORIENTATION, (1,))[0]
    except struct.error:
        return 1
    return value if 1 <= value <= 8 else 1


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image (H, W, C) rotated upright; for 5 to 8, height and width are swapped.

    Args:
        image: the image as stored.
        orientation: the value of the tag.

    >>> image = np.arange(6).reshape(2, 3, 1)
    >>> upright(image, 6)[..., 0].tolist()
    [[3, 0], [4, 1], [5, 2]]
    """
    match orientation:
        case 2:
            turned = image[:, ::-1]
        case 3:
            turned = image[::-1, ::-1]
        case 4:
            turned = image[::-1]
        case 5:
            turned = image.swapaxes(0, 1)
        case 6:
            turned = image.swapaxes(0, 1)[:, ::-1]
        case 7:
            turned = image[::-1, ::-1].swapaxes(0, 1)
        case 8:
            turned = image.swapaxes(0, 1)[::-1]
        case _:
            return image
    return np.ascontiguousarray(turned)


def _exif_of(data: bytes) -> bytes | None:
    """Return the Exif data of a file: a TIFF without an image."""
    if data.startswith(b"\xff\xd8"):
        for marker, at in jpeg_segments(data):
            if marker == _APP1 and data[at + 4 : at + 10] == b"Exif\0\0":
                return data[at + 10 : at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]]
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        return next((body for kind, body in _chunks(data, 8, ">I4s", 4) if kind == b"eXIf"), None)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        found = next((body for kind, body in _chunks(data, 12, "<4sI", 0) if kind == b"EXIF"), None)
        return found.removeprefix(b"Exif\0\0") if found is not None else None
    return None


def _chunks(data: bytes, at: int, head: str, checksum: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and contents of the chunks of a PNG or WebP; for pixels, empty contents."""
    while at + 8 <= len(data):
        first, second = struct.unpack(head, data[at : at + 8])
        kind, size = (first, second) if isinstance(first, bytes) else (second, first)
        yield kind, data[at + 8 : at + 8 + size] if kind in (b"eXIf", b"EXIF") else b""
        at += 8 + size + checksum + (size % 2 if not checksum else 0)
