"""Resizing as in Pillow: a filter as wide as the pixels that are merged into one, so that shrinking does not alias.

Published weights were evaluated on images that torchvision or timm resized with Pillow, and OpenCV's filters give
different pixels. Each pass sums a row's pixels with weights rounded to 22 bits and rounds the sum to 8 bits, width
first, then height: the result equals Pillow's to the bit (``src/libImaging/Resample.c``, Pillow 13). Values of dtypes
other than uint8 are not rounded between the passes.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import numpy as np

from resnet_jax.errors import UsageError

Filter = Literal["bilinear", "bicubic"]

_BITS = 22  # of the weights of 8-bit pixels
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys' kernel (1981, equation 4) with a = -1/2."""
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


_KERNELS = {"bilinear": _triangle, "bicubic": _cubic}


def resample(image: np.ndarray, height: int, width: int, filter: Filter) -> np.ndarray:
    """Resize an image (h, w, c) with antialiasing.

    Args:
        image: uint8, or any other integers or floats.
        height: height of the result in pixels.
        width: width of the result in pixels.
        filter: ``bilinear`` (a triangle) or ``bicubic`` (Keys, a = -1/2).

    Returns:
        (height, width, c) of the same dtype; for uint8, equal to Pillow's ``Image.resize``.

    Raises:
        UsageError: for an unknown filter.

    >>> resample(np.array([[[0], [100]]], np.uint8), 1, 4, "bilinear")[0, :, 0]
    array([  0,  25,  75, 100], dtype=uint8)
    """
    if filter not in _KERNELS:
        raise UsageError(f"images are resized by the filters {', '.join(_KERNELS)}, got {filter!r}")
    found = np.asarray(image)
    for axis, size in ((1, width), (0, height)):
        if found.shape[axis] != size:
            found = _along(found, axis, size, filter, image.dtype)
    return found


def _along(image: np.ndarray, axis: int, size: int, filter: Filter, dtype: Any) -> np.ndarray:
    """Resize one axis."""
    moved = np.moveaxis(image, axis, 0)
    flat = moved.reshape(moved.shape[0], -1).astype(np.float64)
    eight_bits = dtype == np.uint8
    summed = _weights(image.shape[axis], size, filter, eight_bits) @ flat
    if eight_bits:  # whole numbers below 2^53: the sums are exact
        summed = np.clip(np.floor((summed + 2 ** (_BITS - 1)) / 2**_BITS), 0, 255)
    elif np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        summed = np.clip(np.rint(summed), limits.min, limits.max)
    return np.moveaxis(summed.reshape(size, *moved.shape[1:]), 0, axis).astype(dtype)


@functools.lru_cache(maxsize=256)
def _weights(before: int, after: int, filter: Filter, whole: bool) -> Any:
    """Return the (after, before) sparse matrix of one pass, optionally with weights times 2^22 and rounded."""
    from scipy.sparse import csr_array

    scale = before / after
    wide = max(scale, 1.0)
    support = _SUPPORT[filter] * wide
    rows, columns, values = [], [], []
    for place in range(after):
        centre = (place + 0.5) * scale
        first, end = max(0, math.floor(centre - support + 0.5)), min(before, math.floor(centre + support + 0.5))
        taps = _KERNELS[filter]((np.arange(first, end) - centre + 0.5) / wide)
        total = math.fsum(taps)
        taps = taps / total if total else taps
        if whole:
            taps = np.trunc(taps * 2**_BITS + np.where(taps < 0, -0.5, 0.5))
        rows.append(np.full(end - first, place))
        columns.append(np.arange(first, end))
        values.append(taps)
    where = np.concatenate(rows), np.concatenate(columns)
    return csr_array((np.concatenate(values), where), shape=(after, before))
