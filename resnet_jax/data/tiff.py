"""TIFF files of any number of bands, which OpenCV reads wrongly or not at all: bands that are no colours, more than
four of them, and bands of 16 bits in planes of their own.

Strips and tiles, in one plane or several, uncompressed or losslessly compressed: Deflate, PackBits, and LZW (in Python,
about 2 MB per second). Truncated or damaged files are rejected: every strip must unpack to its size.

Source: TIFF revision 6.0 (Adobe, 1992), sections 2, 8, 9, 13, 14 and 15; Technical Note 3 for floating-point numbers.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping

import numpy as np

from resnet_jax.data.headers import tiff_tags
from resnet_jax.data.orientation import upright
from resnet_jax.errors import DataError

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS, STRIP_SIZES, PLANAR, PREDICTOR = 273, 274, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES, EXTRA, FORMAT = 322, 323, 324, 325, 338, 339
LOSSLESS = {1: "none", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits"}
_KINDS = {1: "u", 2: "i", 3: "f"}

Tags = Mapping[int, tuple[int, ...]]


def read_bands(data: bytes, where: str) -> np.ndarray:
    """Return all bands of the first image of a TIFF, (height, width, bands), as stored.

    Args:
        data: the whole file; it has been checked that its pixels fit in memory.
        where: the file, for messages.

    Raises:
        DataError: if it is broken, or stored in an unsupported way; the message says which.
    """
    try:
        tags = tiff_tags(data, most=len(data) // 2)
        width, height, bands = tags[WIDTH][0], tags[HEIGHT][0], tags.get(SAMPLES, (1,))[0]
        if not width * height * bands or 0 in (*tags.get(TILE_WIDTH, ()), *tags.get(TILE_HEIGHT, ())):
            raise KeyError("sides of no pixels")
    except (struct.error, KeyError) as error:
        raise DataError(f"{where}: a TIFF that is cut short or broken; restore the file or remove it") from error
    dtype = _dtype(tags, data, where)
    if tags.get(COMPRESSION, (1,))[0] not in LOSSLESS or tags.get(FILL_ORDER, (1,))[0] != 1:
        raise DataError(
            f"{where}: a TIFF of {bands} bands compressed by method {tags.get(COMPRESSION, (1,))[0]}, which is not "
            f"read; save it with one of {', '.join(dict.fromkeys(LOSSLESS.values()))}"
        )
    planes = bands if tags.get(PLANAR, (1,))[0] == 2 else 1
    within = bands // planes  # samples of a pixel that lie side by side
    parts = [_plane(data, tags, plane, planes, within, dtype, where) for plane in range(planes)]
    image = np.concatenate(parts, axis=-1) if planes > 1 else parts[0]
    image = np.ascontiguousarray(image[:height, :width])
    image = image.astype(dtype.newbyteorder("="), copy=False)
    return upright(image, tags.get(ORIENTATION, (1,))[0])  # as the decoder does to all others


def _dtype(tags: Tags, data: bytes, where: str) -> np.dtype:
    bits, formats = set(tags.get(BITS, (1,))), set(tags.get(FORMAT, (1,)))
    if len(bits) != 1 or len(formats) != 1 or not formats <= set(_KINDS) or min(bits) not in (8, 16, 32, 64):
        found = ", ".join(str(number) for number in sorted(bits))
        raise DataError(f"{where}: a TIFF whose bands have {found} bits of unlike kinds; save all as 8, 16 or 32 bits")
    kind = _KINDS[min(formats)] + str(min(bits) // 8)
    if kind == "f1":
        raise DataError(f"{where}: a TIFF of floating-point numbers of 8 bits, which are not read")
    return np.dtype(("<" if data[:2] == b"II" else ">") + kind)


def _plane(data: bytes, tags: Tags, plane: int, planes: int, within: int, dtype: np.dtype, where: str) -> np.ndarray:
    """Return one plane, (rows, columns, within), possibly with the padding of tiles."""
    width, height = tags[WIDTH][0], tags[HEIGHT][0]
    tiled = TILE_WIDTH in tags and TILE_HEIGHT in tags
    if tiled:
        across, down = (math.ceil(side / tags[tag][0]) for side, tag in ((width, TILE_WIDTH), (height, TILE_HEIGHT)))
        columns, rows, per_plane = tags[TILE_WIDTH][0], tags[TILE_HEIGHT][0], across * down
    else:
        columns, rows = width, max(1, min(tags.get(ROWS, (height,))[0], height))
        across, per_plane = 1, math.ceil(height / rows)
    offsets, sizes = tags.get(TILE_OFFSETS if tiled else STRIP_OFFSETS), tags.get(TILE_SIZES if tiled else STRIP_SIZES)
    if not offsets or not sizes or len(offsets) != len(sizes) or len(offsets) != per_plane * planes:
        raise DataError(f"{where}: a TIFF whose strips or tiles are not as many as its size needs; it is broken")
    if any(offset + size > len(data) for offset, size in zip(offsets, sizes, strict=True)):
        raise DataError(f"{where}: a TIFF that is cut short; restore the file or remove it")
    method, row_bytes = tags.get(COMPRESSION, (1,))[0], columns * within * dtype.itemsize
    grid = np.zeros((math.ceil(height / rows), rows, across, row_bytes), np.uint8)
    for number in range(per_plane):
        offset, size = offsets[plane * per_plane + number], sizes[plane * per_plane + number]
        down, right = divmod(number, across)
        lines = rows if tiled else min(rows, height - down * rows)
        unpacked = _unpack(data[offset : offset + size], method, lines * row_bytes)
        if len(unpacked) != lines * row_bytes:
            raise DataError(f"{where}: a TIFF with a damaged strip or tile; restore the file or remove it")
        grid[down, :lines, right] = np.frombuffer(unpacked, np.uint8).reshape(lines, row_bytes)
    samples = _unpredicted(grid.reshape(-1, across, row_bytes), tags.get(PREDICTOR, (1,))[0], within, dtype, where)
    return samples.reshape(-1, across * columns, within)


def _unpack(packed: bytes, method: int, size: int) -> bytes:
    """Return the bytes of a strip or tile, which should be ``size`` bytes; as far as they could be unpacked."""
    match LOSSLESS[method]:
        case "none":
            return packed[:size]
        case "Deflate":
            try:
                return zlib.decompressobj().decompress(packed, size)
            except zlib.error:
                return b""
        case "PackBits":
            return _unpack_bits(packed, size)
        case _:
            return _unpack_lzw(packed, size)


def _unpack_bits(packed: bytes, size: int) -> bytes:
    r"""Undo PackBits (TIFF 6.0, section 9).

    >>> _unpack_bits(b"\xfe\xaa\x02\x80\x00\x2a", 6)
    b'\xaa\xaa\xaa\x80\x00*'
    """
    found, at = bytearray(), 0
    while at + 1 < len(packed) and len(found) < size:
        count = packed[at]
        if count < 128:
            found += packed[at + 1 : at + 2 + count]
            at += 2 + count
        else:
            found += packed[at + 1 : at + 2] * (257 - count if count > 128 else 0)
            at += 2 if count > 128 else 1
    return bytes(found[:size])


_CLEAR, _END = 256, 257
_LZW_START = [*(bytes([value]) for value in range(256)), b"", b""]
_LZW_WIDTHS = {511: 10, 1023: 11, 2047: 12}


def _unpack_lzw(packed: bytes, size: int) -> bytes:
    """Undo LZW (TIFF 6.0, section 13): codes of 9 to 12 bits, the most significant first."""
    found, table, width = bytearray(), list(_LZW_START), 9
    before, held, bits = b"", 0, 0
    for byte in packed:
        held, bits = (held << 8) | byte, bits + 8
        if bits < width:
            continue
        bits -= width
        code, held = held >> bits, held & ((1 << bits) - 1)
        if code == _CLEAR:
            table, width, before = list(_LZW_START), 9, b""
            continue
        if code == _END or len(found) >= size:
            break
        if code < len(table):
            entry = table[code]
        elif code == len(table) and before:
            entry = before + before[:1]
        else:
            return b""
        found += entry
        if before:
            table.append(before + entry[:1])
            width = _LZW_WIDTHS.get(len(table), width)
        before = entry
    return bytes(found[:size])


def _unpredicted(lines: np.ndarray, predictor: int, within: int, dtype: np.dtype, where: str) -> np.ndarray:
    """Return the samples of lines of bytes (rows, tiles, bytes), undoing the differencing they may be stored with."""
    rows, across, _ = lines.shape
    match predictor:
        case 1:
            return np.ascontiguousarray(lines).view(dtype)
        case 2 if dtype.kind in "ui":
            samples = np.ascontiguousarray(lines).view(dtype).astype(dtype.newbyteorder("="))
            return np.cumsum(samples.reshape(rows, across, -1, within), axis=2, dtype=samples.dtype)
        case 3 if dtype.kind == "f":
            sums = np.cumsum(lines.reshape(rows, across, -1, within), axis=2, dtype=np.uint8)
            split = sums.reshape(rows, across, dtype.itemsize, -1)  # the most significant bytes first
            return np.ascontiguousarray(np.moveaxis(split, 2, -1)).view(dtype.newbyteorder(">"))[..., 0]
        case _:
            raise DataError(f"{where}: a TIFF of {dtype.name} with predictor {predictor}, which is not read")
