"""Decoding of image files, and conversion between channel counts.

Stored images become uint8 RGB or gray as follows:

- **as it lies in the file** (``data.orientation stored``), or turned upright by its Exif orientation (``exif``; see
  :mod:`resnet_jax.data.orientation`). A TIFF's own orientation tag is always applied, by the decoder, and so is AVIF's.
  Colour profiles are not applied.
- **16 bits per channel**: the upper 8 are kept. 16-bit files whose brightest value is below 4,096 contain 10 or 12-bit
  values, which this would turn nearly black: they are rejected. The decoder scales the 10 and 12 bits of AVIF.
- **palette** and **1, 2 or 4 bits**: the colors they stand for. **CMYK**: converted without a profile.
- **alpha**: dropped, so the colors under transparent pixels are visible; a TIFF with transparent pixels is rejected,
  because the decoder blends them with black.
- **several images in one file** (animated GIF and WebP, TIFF pages): the first; for an animated PNG its still image.
- **floating-point, signed and 32-bit** pixels (TIFF, HDR, PFM, EXR) have no defined range and are rejected, as are
  TIFFs in CIELab and raw sensor data, PNM whose white is not 1, 255 or 65,535, and JPEG 2000 with 9 to 15 bits.
- **bands that are not colors** (TIFF with two or more gray samples, or more than four): rejected; ``data.pixels
  stored`` reads them (:mod:`resnet_jax.data.tiff`).
- **more than 178,956,970 pixels**, or more than 8 bytes per pixel of that limit, or more than 256 MiB from a file of
  less than a 64th of that (``RESNET_JAX_MAX_IMAGE_MIB`` raises this): rejected according to the header, before memory
  is allocated.
- **truncated**: rejected, including a JPEG that was truncated and filled up with zeros, since it has no end marker; the
  same for WebP, BMP, PNM, Sun raster and JPEG 2000 cannot be distinguished from an image, because these have neither an
  end marker nor checksums.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from resnet_jax.data.arrays import checked_images, on_devices
from resnet_jax.data.formats import HEAD_BYTES, READABLE, Format, identify
from resnet_jax.data.headers import (
    TIFF_STARTS,
    is_plain,
    jpeg2000_siz,
    jpeg_has_end,
    png_layout,
    png_still,
    shape_in_header,
    tiff_tags,
)
from resnet_jax.data.orientation import orientation_of, upright
from resnet_jax.data.reading import Orientation
from resnet_jax.data.tiff import read_bands
from resnet_jax.errors import DataError, UsageError
from resnet_jax.runtime.limits import IMAGE
from resnet_jax.runtime.plain_numpy import read_array

GREY_WEIGHTS = (299, 587, 114)
"""Red, green and blue weights of luma in thousandths (ITU-R BT.601), as in JPEG's own gray channel."""
MAX_PIXELS = 178_956_970
"""Largest height x width that is decoded: half a gigabyte of RGB, also the limit at which Pillow refuses."""
MAX_BYTES = 8 * MAX_PIXELS
"""Largest size in bytes of all bands of a decoded image: four 16-bit bands at the maximum number of pixels."""
PROPORTION = 64
"""Bytes that one byte of a large file may decode to: photographs give 5 to 30, and drawings are rarely that large."""
_SURE_PIXELS = 64 << 20
"""For 8 bits and four channels: no more than :data:`resnet_jax.runtime.limits.IMAGE` allows for any file."""
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # for headers that OpenCV reads otherwise than we
TWELVE_BITS = 4096

_TIFF_COLOURS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr"}


def decode_image(data: bytes, channels: int, where: str, orientation: Orientation = "stored") -> np.ndarray:
    """Decode an image file; the module describes what happens to each kind.

    Args:
        data: the whole file.
        channels: 3 for RGB, 1 for gray; the image is converted if it is stored differently.
        where: the file or record, for messages.
        orientation: whether the image is rotated upright according to its Exif data.

    Returns:
        uint8 (height, width, channels).

    Raises:
        DataError: if it is not an image, truncated, too large, or of a kind without a defined conversion to 8 bits.
    """
    import cv2

    flags = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    if is_plain(data, min(MAX_PIXELS, _SURE_PIXELS)):
        image = _imdecode(data, flags, is_still=True)
    else:
        image = _decode_any(data, channels, flags, where)
    if image is None:
        raise DataError(f"{where}: {_why_not(data)}")
    image = image.reshape(*image.shape[:2], channels)
    return upright(image, orientation_of(data)) if orientation == "exif" else image


def _decode_any(data: bytes, channels: int, flags: int, where: str) -> np.ndarray | None:
    """Decode a file of any supported format, after checking its header."""
    import cv2

    check_size(data, where)
    if data.startswith(TIFF_STARTS):
        image = _decode_tiff(data, where)
        if image is not None and image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if channels == 1 else image
        elif image is not None:
            image = np.repeat(image[..., None], channels, axis=-1)
    else:
        _check_range(data, where)
        image = _imdecode(data, flags)
        if image is not None and _is_deep(data) and 0 < image.max() < TWELVE_BITS >> 8:
            raise DataError(_too_dark(where, f"below {(int(image.max()) + 1) << 8:,}"))
    return image


NPY = b"\x93NUMPY"
"""The first bytes of an .npy file."""


def decode_npy(data: bytes, where: str) -> np.ndarray:
    """Return the array of an .npy file with a channel axis: an image (H, W, C), a signal or a volume.

    Raises:
        DataError: if it is truncated, contains Python objects, or has an ambiguous shape or dtype.
    """
    try:
        array = read_array(data)
    except ValueError as error:
        raise DataError(f"{where}: cannot read it as .npy ({error})") from error
    return checked_images(array[None], where)[0]


def decode_stored(data: bytes, channels: int, where: str, orientation: Orientation = "stored") -> np.ndarray:
    """Decode an image file without loss: 8 or 16 bits, integers or floats (TIFF), any number of channels.

    Colors are returned as RGB or RGBA, palettes and CMYK as the RGB they stand for. Nothing is scaled.

    Args:
        data: the whole file.
        channels: 3 for RGB, 1 for gray; 0 for the stored channels.
        where: the file or record, for messages.
        orientation: whether the image is rotated upright according to its Exif data.

    Returns:
        (height, width, channels) in the stored dtype.

    Raises:
        DataError: if it is not an image, truncated or too large.
    """
    import cv2

    check_size(data, where)
    tags = _tags(data) if data.startswith(TIFF_STARTS) else None
    colours = None if tags is None else _TIFF_COLOURS.get(tags.get(262, (1,))[0])
    if tags is not None and _is_bands(tags):
        image = read_bands(data, where)
    else:
        image = _decode_tiff(data, where) if colours == "CMYK" else _imdecode(data, cv2.IMREAD_UNCHANGED)
        if image is None:
            raise DataError(f"{where}: {_why_not(data)}")
        image = image[..., None] if image.ndim == 2 else image
        if image.shape[-1] >= 3 and colours != "CMYK":
            image = np.ascontiguousarray(image[..., [2, 1, 0, *range(3, image.shape[-1])]])  # BGR(A) -> RGB(A)
        if data.startswith(b"\x89PNG") and data[25:26] == b"\x04":  # grey with alpha, repeated by the decoder
            image = np.ascontiguousarray(image[..., [0, 3]])
    image = upright(image, orientation_of(data)) if orientation == "exif" else image
    stored = image.shape[-1]
    if channels in (0, stored):
        return on_devices(image)
    if not {channels, stored} <= {1, 3}:
        raise DataError(f"{where} has {stored} channels and {channels} are wanted; only 1 and 3 turn into each other")
    return on_devices(to_channels(image, channels))


def check_size(data: bytes, where: str) -> None:
    """Reject what would need more memory than any image should, in advance, and a JPEG without an end marker.

    Raises:
        DataError: if it is too large; the message says how large, and what is allowed.
    """
    shape = shape_in_header(data)
    if shape is not None and shape[0] * shape[1] > MAX_PIXELS:
        raise DataError(
            f"{where}: its header says {shape[0]:,} x {shape[1]:,} pixels, more than the {MAX_PIXELS:,} that are "
            "decoded: it is broken, or has to be shrunk or cut into pieces first"
        )
    broken_png = data.startswith(b"\x89PNG") and png_layout(data) == "broken"
    if broken_png or (data.startswith(b"\xff\xd8") and not jpeg_has_end(data)):
        raise DataError(f"{where}: {_why_not(data)}")
    bands, size, tile = 3, 1, 0
    if data.startswith(b"\x89PNG") and len(data) > 25:
        bands, size = {0: 1, 4: 2, 6: 4}.get(data[25], 3), max(1, data[24] // 8)
    elif data[:2] in (b"P2", b"P3", b"P5", b"P6"):
        bands, size = 3 if data[1:2] in b"36" else 1, 1 + (_pnm_maximum(data) > 255)
    elif data.startswith(TIFF_STARTS) and (tags := _tags(data)) is not None:
        bands, size = tags.get(277, (1,))[0], -(-max(tags.get(258, (1,))) // 8)
        tile = tags.get(322, (0,))[0] * tags.get(323, (0,))[0]
    elif (siz := jpeg2000_siz(data)) is not None:
        bands, size = siz[4], 4  # its decoder works on 32 bits
    if shape is not None and (max(shape[0] * shape[1], tile) * bands * size > MAX_BYTES or tile > MAX_PIXELS):
        raise DataError(
            f"{where}: its header says {shape[0]:,} x {shape[1]:,} pixels of {bands:,} bands, more than the "
            f"{MAX_BYTES >> 20:,} MiB that are decoded: it is broken, or has to be cut into pieces first"
        )
    decoded = 0 if shape is None else max(shape[0] * shape[1], tile) * bands * size
    if decoded > PROPORTION * len(data) and decoded > IMAGE.value << 20:
        raise DataError(
            f"{where}: its {len(data):,} bytes say that they decode to {decoded:,}; of a file that small {IMAGE.how}"
        )


def _tags(data: bytes) -> dict[int, tuple[int, ...]] | None:
    """Return the tags of a TIFF; None if it is truncated."""
    try:
        return tiff_tags(data)
    except struct.error:
        return None


def _is_bands(tags: Mapping[int, tuple[int, ...]]) -> bool:
    """Return whether a TIFF is one that OpenCV misreads or cannot read, and that `read_bands` reads."""
    samples, colours = tags.get(277, (1,))[0], tags.get(262, (1,))[0]
    planes_of_16_bits = tags.get(284, (1,))[0] == 2 and max(tags.get(258, (1,))) > 8
    return samples > 1 and colours in (0, 1, 2) and (colours != 2 or samples > 4 or planes_of_16_bits)


def _imdecode(data: bytes, flags: int, *, is_still: bool = False) -> np.ndarray | None:
    import cv2

    if not is_still and data.startswith(b"\x89PNG") and png_layout(data) == "animated":
        data = png_still(data)
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # no bytes at all, or a size in the header that no image has
        return None


def _why_not(data: bytes) -> str:
    """Return why these bytes could not be decoded."""
    found = identify(data[:HEAD_BYTES])
    if not data:
        return "the file is empty (0 bytes); restore it or remove it"
    begins = "" if found is None else f", which begin as {found.name} but are cut short or broken"
    if found is None or found.readable:
        return (
            f"cannot decode these {len(data):,} bytes{begins}; need a whole {READABLE} image (restore the file or "
            "remove it)"
        )
    return _another_kind(found)


def _another_kind(found: Format) -> str:
    advice = found.advice or "restore the file or remove it"
    return f"this is {found.name} and no image that is read ({READABLE}); {advice}"


def _decode_tiff(data: bytes, where: str) -> np.ndarray | None:
    """Return RGB (h, w, 3) or gray (h, w), uint8; None if it cannot be decoded."""
    import cv2

    tags = _tags(data)
    if tags is None:
        return None
    bits, sample_format = tags.get(258, (1,)), tags.get(339, (1,))
    if set(sample_format) != {1} or max(bits) > 16:
        kind = {1: "integers", 2: "signed integers", 3: "floating-point numbers"}.get(sample_format[0], "other values")
        raise DataError(
            f"{where}: a TIFF of {max(bits)}-bit {kind}, which have no fixed scale from black to white; save its "
            "pixels as 8-bit or 16-bit unsigned integers"
        )
    colours = tags.get(262, (1,))[0]
    if colours not in _TIFF_COLOURS:
        raise DataError(
            f"{where}: a TIFF whose colours are stored as photometric {colours} (CIELab, raw sensor data, ...), which "
            "the decoder would take for RGB; save it as RGB or grey"
        )
    samples = tags.get(277, (1,))[0]
    if max(bits) > 8 and _TIFF_COLOURS[colours] not in ("grey", "RGB"):
        raise DataError(f"{where}: a TIFF of {max(bits)}-bit {_TIFF_COLOURS[colours]}; save it as RGB, or with 8 bits")
    image: Any
    if _is_bands(tags):
        alpha = samples in (2, 4) and tags.get(338, (0,))[-1] in (1, 2)
        if samples != (4 if colours == 2 else 2) - (not alpha):
            raise DataError(
                f"{where}: a TIFF of {samples} bands that are no colours; data.pixels stored reads them, or save those "
                "that are wanted as grey or RGB"
            )
        image = read_bands(data, where)
        image = image[..., [2, 1, 0, *range(3, samples)]] if colours == 2 else image[..., [0, 0, 0, 1]]
        if colours == 0 and image.dtype == np.uint8:  # 0 is white
            image[..., :3] = 255 - image[..., :3]
    elif max(bits) <= 8 and not (colours == 2 and samples > 3):
        flags = cv2.IMREAD_GRAYSCALE if _TIFF_COLOURS[colours] == "grey" else cv2.IMREAD_COLOR_RGB
        return _imdecode(data, flags)
    else:
        image = _imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        return None
    has_alpha = image.ndim == 3 and image.shape[-1] == 4
    if has_alpha and image[..., 3].min() != np.iinfo(image.dtype).max:
        raise DataError(
            f"{where}: a TIFF with transparent pixels, which the decoder mixes with black; save it without an alpha "
            "channel, or as PNG"
        )
    if image.ndim == 3:
        image = np.ascontiguousarray(image[..., 2::-1])  # BGR, BGRA -> RGB
    if image.dtype == np.uint16:
        if 0 < image.max() < TWELVE_BITS:
            raise DataError(_too_dark(where, f"{image.max():,}"))
        image = (image >> 8).astype(np.uint8)
        if colours == 0:  # 0 is white
            image = 255 - image
    return image if image.dtype == np.uint8 else None


def _is_deep(data: bytes) -> bool:
    """Return whether a file other than TIFF stores 16 bits per channel, of which the decoder keeps the upper 8."""
    if data.startswith(b"\x89PNG"):
        return data[24:25] == b"\x10"
    if (siz := jpeg2000_siz(data)) is not None:
        return siz[2] == 16
    return data[:2] in (b"P2", b"P3", b"P5", b"P6") and _pnm_maximum(data) > 255


def _too_dark(where: str, brightest: str) -> str:
    return (
        f"{where}: 16 bits a channel, but the brightest value is {brightest} of 65,535: these are 10 or 12-bit values, "
        "and keeping the upper 8 of 16 bits would leave almost nothing of them; scale them to 8 bits first"
    )


def _check_range(data: bytes, where: str) -> None:
    """Reject images whose white is not the largest value of their type, since it is not scaled, and non-images."""
    if data.startswith(b"P7\n"):
        header = data[:HEAD_BYTES].split(b"ENDHDR")[0]
        known = any(b"TUPLTYPE " + kind in header for kind in (b"RGB", b"GRAYSCALE"))
        if not known or b"MAXVAL 255\n" not in header:
            raise DataError(
                f"{where}: a PAM image; only TUPLTYPE RGB or GRAYSCALE of MAXVAL 255 is read, save it as PNG"
            )
    elif data[:2] in (b"P2", b"P3", b"P5", b"P6"):
        maximum = _pnm_maximum(data)
        if maximum not in (255, 65535):
            raise DataError(
                f"{where}: a PNM image whose white is {maximum:,}; only 255 and 65,535 are read, save it as PNG"
            )
    elif (siz := jpeg2000_siz(data)) is not None:
        if siz[3] or not (siz[2] <= 8 or siz[2] == 16):
            kind = "signed " if siz[3] else ""
            raise DataError(
                f"{where}: a JPEG 2000 image of {kind}{siz[2]} bits; only 8 and 16 are read, save it as PNG"
            )
    elif (found := identify(data[:HEAD_BYTES])) is not None and not found.readable:
        raise DataError(f"{where}: {_another_kind(found)}")


def _pnm_maximum(data: bytes) -> int:
    """Return the third number of a PNM header: width, height, largest value (255 if the header is broken)."""
    words = [word for line in data[:HEAD_BYTES].split(b"\n") for word in line.split(b"#")[0].split()]
    try:
        return int(words[3])
    except (IndexError, ValueError):
        return 255


def to_channels(images: np.ndarray, channels: int | None) -> np.ndarray:
    """Convert (..., C) with 1 or 3 channels to ``channels``: gray is repeated, RGB becomes luma; None keeps them.

    >>> to_channels(np.array([[255, 255, 255], [255, 0, 0]], np.uint8), 1).tolist()
    [[255], [76]]
    """
    if channels is None or images.shape[-1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    if images.dtype != np.uint8:
        luma = images.astype(np.float64) @ np.array(GREY_WEIGHTS) / 1000
        return (luma.round() if images.dtype.kind in "iu" else luma).astype(images.dtype)[..., None]
    luma = images.astype(np.uint32) @ np.array(GREY_WEIGHTS, np.uint32)
    return ((luma + 500) // 1000).astype(np.uint8)[..., None]


def has_colours(image: np.ndarray) -> bool:
    """Return whether an image, uint8 (H, W, C), has pixels that are not gray.

    >>> has_colours(np.array([[[7, 7, 7]]], np.uint8)), has_colours(np.array([[[7, 7, 8]]], np.uint8))
    (False, True)
    """
    return image.shape[-1] == 3 and bool((image != image[..., :1]).any())


def check_channels(channels: int | None) -> None:
    """Raise UsageError unless ``channels`` is None (as stored), 1 (gray) or 3 (RGB), as image files are decoded."""
    if channels not in (None, 1, 3):
        raise UsageError(f"channels={channels} is not possible; use 1 (grey), 3 (RGB) or none (as stored)")
