"""Affine transforms of images, masks and boxes: where every pixel of the result comes from.

A transform is given by Pillow's six numbers (a, b, c, d, e, f): the point (x, y) of the result comes from (a x + b y +
c, d x + e y + f) in the input, in pixels, x to the right and y down, with pixel centers at + 1/2. Signs are those of
torchvision.

The nearest pixel is found with 16 fixed-point bits as in Pillow. As in :mod:`resnet_jax.data.operations.colour`, ``xp``
is numpy or jax.numpy.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import numpy as np

Array = Any
Interpolation = Literal["nearest", "bilinear"]
Map: TypeAlias = tuple[Array, Array, Array, Array, Array, Array]
#: One pixel in fixed point.
ONE = 1 << 16


def identity(xp: Any, height: int, width: int, _: Array) -> Map:
    """Leave everything in place."""
    return 1.0, 0.0, 0.0, 0.0, 1.0, 0.0


def shear_x(xp: Any, height: int, width: int, amount: Array) -> Map:
    """Move a row y pixels down to the left by ``amount * y`` pixels."""
    return 1.0, amount, 0.0, 0.0, 1.0, 0.0


def shear_y(xp: Any, height: int, width: int, amount: Array) -> Map:
    """Move a column x pixels to the right up by ``amount * x`` pixels."""
    return 1.0, 0.0, 0.0, amount, 1.0, 0.0


def translate_x(xp: Any, height: int, width: int, pixels: Array) -> Map:
    """Move everything to the right."""
    return 1.0, 0.0, -pixels, 0.0, 1.0, 0.0


def translate_y(xp: Any, height: int, width: int, pixels: Array) -> Map:
    """Move everything down."""
    return 1.0, 0.0, 0.0, 0.0, 1.0, -pixels


def translate_x_rel(xp: Any, height: int, width: int, share: Array) -> Map:
    """Move everything to the right by a fraction of the width."""
    return translate_x(xp, height, width, share * width)


def translate_y_rel(xp: Any, height: int, width: int, share: Array) -> Map:
    """Move everything down by a fraction of the height."""
    return translate_y(xp, height, width, share * height)


def rotate(xp: Any, height: int, width: int, degrees: Array) -> Map:
    """Rotate counterclockwise about the center."""
    return general(xp, height, width, angle=-degrees)


def scale(xp: Any, height: int, width: int, factor: Array) -> Map:
    """Scale about the center."""
    return general(xp, height, width, factor=factor)


def general(
    xp: Any,
    height: int,
    width: int,
    *,
    angle: Array = 0.0,
    factor: Array = 1.0,
    shear: tuple[Array, Array] = (0.0, 0.0),
    by: tuple[Array, Array] = (0.0, 0.0),
) -> Map:
    """Return the map of a shear, then a rotation and scaling about the center, then a shift (torchvision's affine).

    Args:
        xp: numpy or jax.numpy.
        height: height of the image.
        width: width of the image.
        angle: degrees, clockwise.
        factor: scale factor.
        shear: degrees, along x and along y.
        by: translation in pixels, to the right and down.
    """
    turn, across, along = (xp.asarray(degrees) * (math.pi / 180) for degrees in (angle, *shear))
    upright = xp.cos(along)
    a = xp.cos(turn - along) / upright
    b = -xp.cos(turn - along) * xp.tan(across) / upright - xp.sin(turn)
    c = xp.sin(turn - along) / upright
    d = -xp.sin(turn - along) * xp.tan(across) / upright + xp.cos(turn)
    # the inverse: of determinant 1 before the scaling
    a, b, c, d = d / factor, -b / factor, -c / factor, a / factor
    middle_x, middle_y = width / 2, height / 2
    right, down = middle_x + by[0], middle_y + by[1]
    return a, b, middle_x - a * right - b * down, c, d, middle_y - c * right - d * down


def is_identity(transform: Map) -> bool:
    """Return whether a map of concrete numbers leaves everything in place."""
    return tuple(float(value) for value in transform) == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def warped(xp: Any, values: Array, transform: Map, fill: Array, interpolation: Interpolation = "nearest") -> Array:
    """Return an image (height, width, channels) or a mask (height, width) under a map, of the same dtype.

    Args:
        xp: numpy or jax.numpy.
        values: the array to map.
        transform: the map.
        fill: value beyond the border: a number, or one per channel.
        interpolation: the nearest pixel, or the four neighbors weighted by proximity and truncated to integers.
    """
    found, inside = (_nearest if interpolation == "nearest" else _bilinear)(xp, values, transform)
    if values.ndim == 3:
        inside = inside[..., None]
    return xp.where(inside, found.astype(values.dtype), xp.asarray(fill).astype(values.dtype))


def _nearest(xp: Any, values: Array, transform: Map) -> tuple[Array, Array]:
    row, column, inside = _places(xp, values, transform)
    if xp is np:  # of flat places, which is three times as fast
        flat = values.reshape(-1, *values.shape[2:])
        return np.take(flat, row * np.int32(values.shape[1]) + column, axis=0), inside
    return values[row, column], inside


def _places(xp: Any, values: Array, transform: Map) -> tuple[Array, Array, Array]:
    """Return the row and column that each pixel comes from, and whether these are in the image."""
    height, width = values.shape[:2]
    a, b, c, d, e, f = transform
    middle = (a, b, c + (a + b) / 2, d, e, f + (d + e) / 2)
    a, b, c, d, e, f = (xp.floor(xp.asarray(value) * ONE + 0.5).astype(xp.int32) for value in middle)
    x, y = xp.arange(width, dtype=xp.int32)[None], xp.arange(height, dtype=xp.int32)[:, None]
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return xp.clip(row, 0, height - 1), xp.clip(column, 0, width - 1), inside


def _bilinear(xp: Any, values: Array, transform: Map) -> tuple[Array, Array]:
    height, width = values.shape[:2]
    *_, inside = _places(xp, values, transform)
    a, b, c, d, e, f = (xp.asarray(value, xp.float32) for value in transform)
    x = xp.arange(width, dtype=xp.float32)[None] + 0.5
    y = xp.arange(height, dtype=xp.float32)[:, None] + 0.5
    column, row = a * x + b * y + (c - 0.5), d * x + e * y + (f - 0.5)
    left, top = xp.floor(column), xp.floor(row)
    right_share, below_share = column - left, row - top

    def at(row: Array, column: Array) -> Array:
        rows, columns = xp.clip(row, 0, height - 1), xp.clip(column, 0, width - 1)
        return values[rows.astype(xp.int32), columns.astype(xp.int32)].astype(xp.float32)

    if values.ndim == 3:
        right_share, below_share = right_share[..., None], below_share[..., None]
    above = at(top, left) + right_share * (at(top, left + 1) - at(top, left))
    below = at(top + 1, left) + right_share * (at(top + 1, left + 1) - at(top + 1, left))
    return above + below_share * (below - above), inside


def moved_boxes(xp: Any, boxes: Array, transform: Map, height: int, width: int) -> Array:
    """Return the boxes (n, 4) around the mapped corners, clipped at the border; of the same dtype."""
    a, b, c, d, e, f = (xp.asarray(value, xp.float32) for value in transform)
    top, left, bottom, right = (boxes[..., place].astype(xp.float32) for place in range(4))
    x = xp.stack([left, right, left, right], axis=-1) - c
    y = xp.stack([top, top, bottom, bottom], axis=-1) - f
    determinant = a * e - b * d
    across, down = (e * x - b * y) / determinant, (a * y - d * x) / determinant
    across, down = xp.clip(across, 0, width), xp.clip(down, 0, height)
    around = [down.min(-1), across.min(-1), down.max(-1), across.max(-1)]
    return xp.stack(around, axis=-1).astype(boxes.dtype)


def as_numbers(transform: Map) -> Map:
    """Return a map as NumPy float64 numbers, for the host."""
    return tuple(np.float64(value) for value in transform)  # type: ignore[return-value]
