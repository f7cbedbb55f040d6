"""Encoded bytes to pixels, and one channel count to another."""

from __future__ import annotations

import numpy as np

from resnet_jax.errors import DataError, UsageError

GREY_WEIGHTS = (299, 587, 114)
"""Red, green and blue parts of luma in thousandths (ITU-R BT.601), as in JPEG's own grey channel."""


def decode_image(data: bytes, channels: int, where: str) -> np.ndarray:
    """Decode JPEG, PNG, BMP or WebP bytes as stored: an EXIF orientation is not applied, alpha is dropped.

    Args:
        data: the whole file.
        channels: 3 for RGB, 1 for grey; the image is converted if it is stored otherwise.
        where: the file or record, for the message.

    Returns:
        uint8 (height, width, channels).

    Raises:
        DataError: not an image, or cut short.
    """
    import cv2

    flags = (cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # no bytes at all, or a size in the header that no image has
        image = None
    if image is None:
        raise DataError(
            f"{where}: cannot decode these {len(data)} bytes; need a whole JPEG, PNG, BMP or WebP image "
            "(restore the file or remove it)"
        )
    return image.reshape(*image.shape[:2], channels)


def to_channels(images: np.ndarray, channels: int | None) -> np.ndarray:
    """Bring uint8 (..., C) to ``channels`` channels: grey is repeated, RGB becomes luma; None keeps them.

    >>> to_channels(np.array([[255, 255, 255], [255, 0, 0]], np.uint8), 1).tolist()
    [[255], [76]]
    """
    if channels is None or images.shape[-1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    luma = images.astype(np.uint32) @ np.array(GREY_WEIGHTS, np.uint32)
    return ((luma + 500) // 1000).astype(np.uint8)[..., None]


def check_channels(channels: int | None) -> None:
    """Raise UsageError unless ``channels`` is None (as stored), 1 (grey) or 3 (RGB)."""
    if channels not in (None, 1, 3):
        raise UsageError(f"channels={channels} is not possible; use 1 (grey), 3 (RGB) or none (as stored)")
