"""Decoders of images and masks."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from tests.fuzz.packing import IMAGE, RNG, encoded, npy, png_part
from tests.fuzz.reader import Reader


def _decode(root: Path) -> None:
    from resnet_jax.data.decode import decode_image, decode_stored

    (path,) = root.iterdir()
    data = path.read_bytes()
    failed = []
    for read in (lambda: decode_image(data, 3, "x", "exif"), lambda: decode_stored(data, 0, "x", "exif")):
        try:
            read()
        except Exception as error:
            failed.append(error)
    foreign = [error for error in failed if not type(error).__module__.startswith("resnet_jax")]
    if foreign or len(failed) == 2:
        raise (foreign or failed)[0]


def _tiff_of_bands(method: int = 8) -> bytes:
    """Return a TIFF of five bands of 16 bits in one strip, which OpenCV does not read."""
    height, width, bands = 6, 5, 5
    strip = RNG.integers(0, 900, (height, width, bands), np.uint16).tobytes()
    strip = zlib.compress(strip) if method == 8 else strip
    tags = {256: width, 257: height, 258: 16, 259: method, 262: 1, 273: 8, 277: bands, 278: height, 279: len(strip)}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    return struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip + struct.pack("<H", len(entries)) + b"".join(entries)


def images() -> list[Reader]:
    files = {
        "png": encoded(".png"),
        "png16": encoded(".png", (IMAGE.astype(np.uint16) << 8)),
        "jpeg": encoded(".jpg", cv2.resize(IMAGE, (40, 32))),
        "gif": encoded(".gif"),
        "bmp": encoded(".bmp"),
        "webp": encoded(".webp"),
        "webp-lossless": encoded(".webp", IMAGE, cv2.IMWRITE_WEBP_QUALITY, 101),
        "tiff": encoded(".tiff", IMAGE, cv2.IMWRITE_TIFF_COMPRESSION, 5),
        "tiff-bands": _tiff_of_bands(),
        "avif": encoded(".avif"),
        "jp2": encoded(".jp2", cv2.resize(IMAGE, (40, 32))),
        "ppm": encoded(".ppm"),
        "pam": encoded(".pam"),
        "ras": encoded(".ras"),
    }
    frames = cv2.Animation()
    frames.frames, frames.durations = [IMAGE, IMAGE[::-1].copy()], [100, 100]
    for suffix in (".png", ".gif", ".webp"):
        files[f"animated {suffix[1:]}"] = cv2.imencodeanimation(suffix, frames)[1].tobytes()
    inner = {name: {name: png_part(files[name])} for name in ("png", "png16")}
    return [Reader(f"image {name}", {name: data}, _decode, inner=inner.get(name, {})) for name, data in files.items()]


def read_mask(root: Path) -> None:
    from resnet_jax.data.kinds.mask_file import read_mask_file

    (path,) = root.iterdir()
    read_mask_file(str(path))


def masks() -> list[Reader]:
    """Return the readers of masks."""
    grey = encoded(".png", IMAGE[..., 0])
    return [
        Reader("mask png", {"m.png": grey}, read_mask, inner={"m.png": png_part(grey)}),
        Reader("mask npy", {"m.npy": npy(IMAGE[..., 0])}, read_mask),
    ]
