"""Gaussian blur of 8-bit images, with the weights and rounding of torchvision."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np

Array = Any


def blurred(xp: Any, image: Array, size: int, sigma: Array) -> Array:
    """Return an image averaged with Gaussian weights, mirrored at its border without repeating the border pixels.

    Args:
        xp: numpy or jax.numpy.
        image: uint8 (height, width, channels).
        size: size of the kernel, odd; half of it is less than a side of the image.
        sigma: standard deviation in pixels, float32.

    >>> blurred(np, np.full((3, 3, 1), 7, np.uint8), 3, np.float32(1)).ravel().tolist()
    [7, 7, 7, 7, 7, 7, 7, 7, 7]
    """
    half = size // 2
    weights = kernel(xp, size, sigma)
    values = xp.pad(image, ((half, half), (half, half), (0, 0)), mode="reflect").astype(xp.float32)
    if xp is np:
        import cv2

        row = np.asarray(weights, np.float32)
        blended = cv2.sepFilter2D(values, cv2.CV_32F, row, row).reshape(values.shape)[half:-half, half:-half]
    else:
        height, width = image.shape[:2]
        across = functools.reduce(operator.add, (values[:, i : i + width] * weights[i] for i in range(size)))
        blended = functools.reduce(operator.add, (across[i : i + height] * weights[i] for i in range(size)))
    return xp.clip(xp.round(blended), 0, 255).astype(xp.uint8)


def kernel(xp: Any, size: int, sigma: Array) -> Array:
    """Return the weights, float32 (size,), which sum to 1."""
    place = xp.arange(size, dtype=xp.float32) - (size - 1) / 2
    weights = xp.exp(-0.5 * (place / xp.asarray(sigma, xp.float32)) ** 2)
    return weights / weights.sum()
