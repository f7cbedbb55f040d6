"""The contents of image headers: sizes, bits and tags, read without decoding.

A decoder allocates the memory that a header asks for, so sizes are checked first. All decoded formats are covered:
JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF, JPEG 2000, PNM, PAM and Sun raster.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Literal

TIFF_STARTS = (b"II*\0", b"MM\0*")
MOST_VALUES = 64
"""Maximum number of values read from a TIFF tag by default: bits of every sample, and the like."""
START_OF_SCAN = 0xDA
_START_OF_FRAME = rb"(?s)\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]...(....)"
_AVIF_BRANDS = (b"avif", b"avis")


def shape_in_header(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) from the header, without decoding; None for a format whose header is not parsed."""
    try:
        if data.startswith(b"\x89PNG"):
            width, height = struct.unpack(">II", data[16:24])
        elif data.startswith(b"GIF8"):
            width, height = struct.unpack("<HH", data[6:10])
        elif data.startswith(b"BM"):
            width, height = struct.unpack("<ii", data[18:26])
        elif data.startswith(b"\xff\xd8"):
            return _jpeg_shape(data)
        elif data.startswith(TIFF_STARTS):
            tags = tiff_tags(data)
            width, height = tags[256][0], tags[257][0]
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp_shape(data)
        elif data.startswith(b"\x59\xa6\x6a\x95"):
            width, height = struct.unpack(">II", data[4:12])
        elif data[4:8] == b"ftyp" and data[8:12] in _AVIF_BRANDS:
            return _avif_shape(data)
        elif data[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"):
            words = [word for line in data[:560].split(b"\n") for word in line.split(b"#")[0].split()]
            width, height = int(words[1]), int(words[2])
        elif data.startswith(b"P7\n"):
            found = dict(re.findall(rb"^(WIDTH|HEIGHT)\s+(\d+)", data[:560], re.MULTILINE))
            width, height = int(found[b"WIDTH"]), int(found[b"HEIGHT"])
        elif (siz := jpeg2000_siz(data)) is not None:
            height, width = siz[:2]
        else:
            return None
    except (struct.error, KeyError, IndexError, ValueError):
        return None
    return abs(height), abs(width)


def _webp_shape(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) of a WebP file (RFC 9649, sections 2.5 to 2.7 and 3.4)."""
    if data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    if data[12:16] == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = struct.unpack("<HH", data[26:30])
    return height & 0x3FFF, width & 0x3FFF


def _avif_shape(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) of the largest image in an AVIF file: its ``ispe`` boxes (ISO 23008-12, 6.5.3)."""
    sizes = [struct.unpack(">II", data[found.end() + 4 : found.end() + 12]) for found in re.finditer(b"ispe", data)]
    return max(((height, width) for width, height in sizes), key=lambda size: size[0] * size[1], default=None)


def _jpeg_shape(data: bytes) -> tuple[int, int] | None:
    for marker, at in jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height, width
    # skip garbage between segments, as decoders do: the largest that may be a start of frame
    sizes = [struct.unpack(">HH", found[1]) for found in re.finditer(_START_OF_FRAME, data)]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield marker and position of the segments of a JPEG (ISO 10918-1, annex B) up to and including its first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        yield marker, at
        if marker == START_OF_SCAN:
            return
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]


def jpeg_has_end(data: bytes) -> bool:
    """Return whether a JPEG has an end: an EOI marker after its first scan. That of a thumbnail comes before.

    If a file was truncated and filled up with zeros, decoders make up what is missing, usually in gray.
    """
    scan = next((at for marker, at in jpeg_segments(data) if marker == START_OF_SCAN), None)
    return scan is not None and data.rfind(b"\xff\xd9", scan) >= 0


_PNG_START = b"\x89PNG\r\n\x1a\n"
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")


def png_layout(data: bytes) -> Literal["still", "animated", "broken"]:
    """Return what the chunks of a PNG (ISO 15948, 5.3) say: broken if one is longer than the file.

    OpenCV allocates the size that a chunk claims, up to 4 GiB; and if the first frame of an animation is damaged, it
    jumps to a location that no longer exists (opencv/opencv#27744), with undefined behavior.
    """
    at, last, found = 8, len(data) - 12, "still"
    while at <= last:
        name = data[at + 4 : at + 8]
        if name == b"IEND":
            return found
        if name in _ANIMATION:
            found = "animated"
        at += 12 + (data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3])
    return found if at <= len(data) else "broken"


def png_still(data: bytes) -> bytes:
    """Return an animated PNG without its animation: the still image that every PNG has."""
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        if name not in _ANIMATION:
            parts.append(data[at:end])
        if name == b"IEND":
            break
        at = end
    return b"".join(parts)


def is_plain(data: bytes, most: int) -> bool:
    """Return whether this is a JPEG with an end, or a PNG with up to 8 bits per channel, of at most so many pixels.

    Nearly all files are, and need no further checks before decoding; so this is one pass over the segments.
    """
    if data.startswith(_PNG_START) and len(data) > 24:
        pixels = int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
        return data[24] <= 8 and pixels <= most and png_layout(data) == "still"
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    at, last, pixels = 2, len(data) - 9, most + 1
    while at < last and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == START_OF_SCAN:
            return pixels <= most and data.rfind(b"\xff\xd9", at) >= 0
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            pixels = (data[at + 5] << 8 | data[at + 6]) * (data[at + 7] << 8 | data[at + 8])
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return False


def jpeg2000_siz(data: bytes) -> tuple[int, int, int, bool, int] | None:
    """Return height, width, bits, signedness and components of a JPEG 2000 (ISO 15444-1, A.5.1), or None."""
    if not data.startswith((b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")):
        return None
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(data) < at + 43:
        return None
    right, bottom, left, top = struct.unpack(">IIII", data[at + 8 : at + 24])
    (components,), depth = struct.unpack(">H", data[at + 40 : at + 42]), data[at + 42]
    return bottom - top, right - left, (depth & 0x7F) + 1, depth > 0x7F, components


def tiff_tags(data: bytes, most: int = MOST_VALUES) -> dict[int, tuple[int, ...]]:
    r"""Return the integer tags of a TIFF's first image (TIFF 6.0, section 2), or of Exif data (the same format).

    Args:
        data: the file.
        most: maximum number of values per tag; a tag with more is left out.

    Raises:
        struct.error: if it is truncated.

    >>> tiff_tags(b"II*\0\x08\0\0\0\x01\0" + b"\x06\x01\x03\0\x01\0\0\0\x02\0\0\0")
    {262: (2,)}
    """
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack(order + "I", data[4:8])[0]
    count = struct.unpack(order + "H", data[at : at + 2])[0]
    tags: dict[int, tuple[int, ...]] = {}
    for entry in range(count):
        where = at + 2 + 12 * entry
        tag, kind, number = struct.unpack(order + "HHI", data[where : where + 8])
        code = {1: "B", 3: "H", 4: "I"}.get(kind)
        if code is None or not 0 < number <= most:
            continue
        size = struct.calcsize(code) * number
        offset = where + 8
        if size > 4:
            offset = struct.unpack(order + "I", data[offset : offset + 4])[0]
        tags[tag] = struct.unpack(f"{order}{number}{code}", data[offset : offset + size])
    return tags
