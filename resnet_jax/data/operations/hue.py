"""Hue rotation of 8-bit colors: converted to 8-bit hue, saturation and value as in Pillow, rotated, converted back."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

Array = Any


def turned(xp: Any, image: Array, turn: Array) -> Array:
    """Return an image whose hue is rotated by a fraction of the circle; with one channel it is unchanged.

    Args:
        xp: numpy or jax.numpy.
        image: uint8 (height, width, channels).
        turn: -0.5 to 0.5; in 255 steps, truncated (as in torchvision).
    """
    if image.shape[-1] != 3:
        return image
    hue, saturation, value = to_hsv(xp, image)
    steps = xp.trunc(xp.asarray(turn, xp.float32) * xp.float32(255)).astype(xp.int32)
    return from_hsv(xp, (hue + steps) & 255, saturation, value)


def to_hsv(xp: Any, image: Array) -> tuple[Array, Array, Array]:
    """Return hue, saturation and value, int32 in 0 .. 255, (height, width)."""
    red, green, blue = (image[..., channel].astype(xp.int32) for channel in range(3))
    high, low = xp.maximum(xp.maximum(red, green), blue), xp.minimum(xp.minimum(red, green), blue)
    width = high - low
    safe = xp.maximum(width, 1)
    first, second = red == high, green == high
    # the sextant is determined by the largest channel and the sign of the difference of the other two
    difference = xp.where(first, green - blue, xp.where(second, blue - red, red - green))
    third = xp.where(first, 0, xp.where(second, 1, 2)).astype(xp.int32)
    hues, saturations = (xp.asarray(table) for table in _tables())
    place = ((third * 2 + (difference < 0).astype(xp.int32)) * 256 + safe) * 256 + xp.abs(difference)
    hue = xp.take(hues.ravel(), place)
    saturation = xp.take(saturations.ravel(), safe * 256 + high)
    grey = width == 0
    return xp.where(grey, 0, hue.astype(xp.int32)), xp.where(grey, 0, saturation.astype(xp.int32)), high


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return Pillow's hue (largest channel, negative difference, width, |difference|) and saturation (width, value).

    Its quotients are float32 and its sums float64, both truncated to integers; tables give the same on all devices.
    """
    width = np.maximum(np.arange(256), 1)[:, None].astype(np.float32)
    remaining = ((width - np.arange(256)[None]) / width).astype(np.float32)
    # width w, difference d >= 0: one of the two distances from the largest is w, and the other w - d
    one, other = np.ones_like(remaining), remaining
    hues = np.zeros((3, 2, 256, 256), np.uint8)
    for third in range(3):
        for sign, (plus, minus) in enumerate([(one, other), (other, one)]):
            if third == 0:
                angle = plus - minus
            else:
                angle = (2.0 * third + plus.astype(np.float64) - minus.astype(np.float64)).astype(np.float32)
            share = np.fmod(angle.astype(np.float64) / 6.0 + 1.0, 1.0).astype(np.float32)
            hues[third, sign] = np.clip((share.astype(np.float64) * 255.0).astype(np.int64), 0, 255)
    saturation = (np.arange(256)[:, None] / np.maximum(np.arange(256), 1)[None].astype(np.float32)).astype(np.float32)
    return hues, np.clip((saturation.astype(np.float64) * 255.0).astype(np.int64), 0, 255).astype(np.uint8)


def from_hsv(xp: Any, hue: Array, saturation: Array, value: Array) -> Array:
    """Return the colors, uint8 (height, width, 3)."""
    levels = np.arange(256, dtype=np.int32) * 6
    at, within = (xp.take(xp.asarray(table), hue) for table in (levels // 255 % 6, levels % 255))

    def rounded(part: Array) -> Array:
        """Return ``value (1 - saturation part / 255^2)`` rounded; a tie is impossible, because 255^2 is odd."""
        return (2 * (value * 65025 - value * saturation * part) + 65025) // (2 * 65025)

    low, falling, rising = rounded(255 + 0 * hue), rounded(within), rounded(255 - within)

    def channel(rises: int, high: tuple[int, int], falls: int) -> Array:
        """Return a channel from the sextants in which it rises, is highest, and falls; in the others it is lowest."""
        found = xp.where(at == rises, rising, xp.where(at == falls, falling, low))
        return xp.where((at == high[0]) | (at == high[1]) | (saturation == 0), value, found)

    channels = [channel(4, (0, 5), 1), channel(0, (1, 2), 3), channel(2, (3, 4), 5)]
    return xp.stack(channels, axis=-1).astype(xp.uint8)
