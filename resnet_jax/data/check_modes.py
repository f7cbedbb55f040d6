"""How an image is stored, from its header: format, gray or color, bits, palette, alpha, CMYK."""

from __future__ import annotations

import struct

from resnet_jax.data.formats import HEAD_BYTES, identify
from resnet_jax.data.headers import TIFF_STARTS, jpeg2000_siz, jpeg_segments, tiff_tags
from resnet_jax.runtime.plain_files import open_file

HEADER_BYTES = 1 << 16
"""Number of bytes read from a file; the image description is within them, except after long comments and in some
TIFFs."""
_PNG = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_JPEG = {1: "grey", 3: "colour", 4: "CMYK"}
_TIFF = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELab"}


def stored_mode(path: str) -> str:
    """Return how an image file is stored, such as ``PNG, palette, 8 bit``; only its format if nothing else is parsed.

    Raises:
        OSError: if it cannot be read.
    """
    with open_file(path) as file:
        return mode_of(file.read(HEADER_BYTES))


def mode_of(data: bytes) -> str:
    r"""Return how an image is stored, from its first bytes.

    >>> mode_of(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\3\0\0\0")
    'PNG, palette, 8 bit'
    """
    found = identify(data[:HEAD_BYTES])
    if found is None:
        return "unknown"
    name = found.name.split(" ", 1)[1].removesuffix(" image") if " " in found.name else found.name
    try:
        detail = _detail(data)
    except (struct.error, IndexError, KeyError, ValueError):
        detail = ""
    return f"{name}, {detail}" if detail else name


def _detail(data: bytes) -> str:
    if data.startswith(b"\x89PNG"):
        return f"{_PNG.get(data[25], 'unknown colours')}, {data[24]} bit"
    if data.startswith(b"\xff\xd8"):
        for marker, at in jpeg_segments(data):
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                progressive = ", progressive" if marker in (0xC2, 0xC6, 0xCA, 0xCE) else ""
                return f"{_JPEG.get(data[at + 9], f'{data[at + 9]} components')}, {data[at + 4]} bit{progressive}"
        return ""
    if data.startswith(TIFF_STARTS):
        tags = tiff_tags(data)
        bits, samples = max(tags.get(258, (1,))), tags.get(277, (1,))[0]
        kind = {2: "signed ", 3: "float "}.get(tags.get(339, (1,))[0], "")
        return f"{_TIFF.get(tags.get(262, (1,))[0], 'other colours')}, {samples} x {kind}{bits} bit"
    if data.startswith(b"BM"):
        return f"{struct.unpack('<H', data[28:30])[0]} bit"
    if (siz := jpeg2000_siz(data)) is not None:
        return f"{siz[4]} x {siz[2]} bit"
    if data.startswith(b"GIF8"):
        return "palette"
    return ""
