"""Check an image file from an untrusted sender before a decoder sees it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Literal

from resnet_jax.data.formats import HEAD_BYTES, identify
from resnet_jax.data.headers import png_layout, shape_in_header
from resnet_jax.deploy.serve.problems import not_an_image, not_readable, too_large

SCANS = 100
"""Maximum number of scans of a JPEG. Cameras and programs write 1 to 12. Each scan costs a pass over the whole image,
and a few bytes can request one."""
LITTLE = 1 << 16
"""Compressed bytes of PNG pixels that are left to the decoder unchecked; a byte expands to at most 1,032."""

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def check_file(data: bytes, pixels: int) -> Literal["jpeg", "png"]:
    """Return the kind of an image, or reject it, judging by its header alone.

    Args:
        data: the file.
        pixels: maximum number of pixels of an image that is decoded.

    Raises:
        Problem: 415 if it is neither JPEG nor PNG, 413 if it has more pixels, 422 if it has no size or an excessive
            number of scans.

    >>> check_file(b"hello", 100)
    Traceback (most recent call last):
    resnet_jax.deploy.serve.problems.Problem: this is not a JPEG or PNG image: it looks like text
    """
    kind = "jpeg" if data.startswith(_JPEG) else "png" if data.startswith(_PNG) else None
    if kind is None:
        if not data:
            raise not_readable("an empty file")
        found = identify(data[:HEAD_BYTES])
        said = f"it looks like {found.name}" if found is not None else ""
        raise not_an_image("this is not a JPEG or PNG image" + (f": {said}" if said else ""))
    shape = shape_in_header(data)
    if shape is None or 0 in shape:
        raise not_readable(f"a {kind.upper()} without a size in its header: damaged, or cut short")
    if shape[0] * shape[1] > pixels:
        raise too_large(
            f"an image of {shape[0]:,}x{shape[1]:,} = {shape[0] * shape[1]:,} pixels (height x width); at most "
            f"{pixels:,} are decoded: make it smaller"
        )
    if kind == "jpeg" and data.count(b"\xff\xda") > SCANS:
        raise not_readable(f"a JPEG of {data.count(bytes((0xFF, 0xDA))):,} scans; at most {SCANS} are decoded")
    if kind == "png":
        if png_layout(data) == "broken":
            raise not_readable("a PNG that is cut short, or whose parts are longer than the file")
        _require_its_size(data)
    return kind


def _require_its_size(data: bytes) -> None:
    """Reject a PNG whose pixels expand to more bytes than its size implies; decoders would expand the rest too, for
    minutes.

    Raises:
        Problem: 422.
    """
    packed = [data[start:end] for name, start, end in _chunks(data) if name == b"IDAT"]
    if sum(map(len, packed)) <= LITTLE:
        return
    left, unpacking = _bytes_of_pixels(data), zlib.decompressobj()
    for part in packed:
        for start in range(0, len(part), LITTLE):
            try:
                left -= len(unpacking.decompress(part[start : start + LITTLE], left + 1))
            except zlib.error as error:
                raise not_readable("a PNG that is damaged: its pixels cannot be unpacked") from error
            if left < 0 or unpacking.unconsumed_tail:
                raise not_readable("a PNG whose pixels unpack to more than its width and height have: damaged")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the contents of every chunk of a PNG."""
    at = len(_PNG)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], at + 8, at + 8 + length
        at += 12 + length


def _bytes_of_pixels(data: bytes) -> int:
    """Return the bytes of the rows of a PNG, including the filter byte of each (PNG specification, 7.2 and 8.2)."""
    width, height, depth, colours, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, len(_PNG) + 8)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colours, 4)
    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    total = 0
    for left, top, across, down in adam7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0:
            total += max(rows, 0) * (1 + -(-columns * bits // 8))
    return total
