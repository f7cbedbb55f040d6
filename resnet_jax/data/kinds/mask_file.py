"""The stored contents of a mask file, a number or a color for every pixel, never a rendering of it.

A palette PNG stores numbers, which a decoder turns into colors; a PNG with 1, 2 or 4 bits per pixel stores small
numbers, which a decoder spreads over 0..255. Here the numbers of a PNG are returned as stored. JPEG is rejected because
it changes values at every edge. Colors with three equal channels are numbers.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from resnet_jax.data.decode import NPY, check_size, decode_stored
from resnet_jax.data.formats import HEAD_BYTES, identify
from resnet_jax.data.kinds.files import read_bytes
from resnet_jax.errors import DataError
from resnet_jax.runtime.plain_numpy import read_array

PNG = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
_SPREAD = {1: 255, 2: 85, 4: 17}
"""Bits of a gray PNG -> the factor that a decoder applies to its numbers."""


def read_mask_file(path: str, *, shown: bool = False) -> np.ndarray:
    """Return the stored contents of a mask file.

    Args:
        path: PNG, TIFF, BMP, GIF, WebP or .npy.
        shown: whether to return a palette's colors instead of its numbers.

    Returns:
        Numbers, uint8 or uint16 or int32 (H, W), or colors, uint8 RGB (H, W, 3).

    Raises:
        DataError: if it cannot be read or decoded, is a JPEG, or contains anything else.
    """
    return decode_mask(read_bytes(path), path, shown=shown)


def decode_mask(data: bytes, where: str, *, shown: bool = False) -> np.ndarray:
    """Return the stored contents of the bytes of a mask file; see :func:`read_mask_file`."""
    if data.startswith(NPY):
        return _array(data, where)
    found = identify(data[:HEAD_BYTES])
    if found is not None and found.name == "a JPEG image":
        raise DataError(f"{where}: a mask in JPEG, whose compression changes classes at every edge; save it as PNG")
    if data.startswith(PNG) and len(data) > 33 and data[25] in ((_GREY,) if shown else (_GREY, _PALETTE)):
        bits = data[24]
        check_size(data, where)
        values = decode_stored(_as_grey(data, where), 0, where)[..., 0]
        return values // _SPREAD[bits] if bits in _SPREAD else values
    values = decode_stored(data, 0, where)
    if values.dtype.kind not in "iu":
        raise DataError(f"{where}: a mask of {values.dtype}; classes are whole numbers")
    if values.shape[-1] == 1:
        return values[..., 0]
    if values.shape[-1] == 2 or values.dtype != np.uint8:
        raise DataError(f"{where}: a mask of {values.shape[-1]} channels of {values.dtype}; need one, or RGB of 8 bits")
    colours = values[..., :3]
    return colours[..., 0] if (colours == colours[..., :1]).all() else np.ascontiguousarray(colours)


def _as_grey(data: bytes, where: str) -> bytes:
    """Return a gray or palette PNG as gray: rows are stored the same way, so the numbers of the pixels are kept.

    Palette, transparency and every other chunk that affects rendering are dropped.
    """
    header = bytearray(data[16:29])
    header[9] = _GREY
    chunks, at = [(b"IHDR", bytes(header))], 33
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        if at + 12 + length > len(data):
            raise DataError(f"{where}: this PNG is cut short")
        if name == b"IDAT":
            body = data[at + 8 : at + 8 + length]
            if zlib.crc32(name + body) != struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]:
                raise DataError(f"{where}: this PNG is broken (a checksum is wrong)")
            chunks.append((name, body))
        at += 12 + length
        if name == b"IEND":
            break
    else:
        raise DataError(f"{where}: this PNG is cut short")
    chunks.append((b"IEND", b""))
    written = [struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks]
    return PNG + b"".join(written)


def _array(data: bytes, where: str) -> np.ndarray:
    try:
        values = read_array(data)
    except ValueError as error:
        raise DataError(f"{where}: cannot read it as .npy ({error})") from error
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "iub" or not values.size:
        raise DataError(f"{where}: a mask of {values.dtype} {values.shape}; need whole numbers (height, width)")
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        raise DataError(f"{where}: values {values.min()} to {values.max()}; classes are 0 and up, 255 is none")
    return values.astype(np.uint8 if values.max() <= 255 else np.uint16)
