"""Operations on 8-bit colors: lookup tables per channel, and blends with another image. Rounded exactly as in Pillow.

Every function takes the array module ``xp`` that it computes with, :mod:`numpy` on the host or ``jax.numpy`` within a
compiled step; the definition is the same. All arithmetic is on integers, except the blend, which is Pillow's in
float32; its product is prevented from being fused with its sum, which would round differently.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

Array = Any
LEVELS = 256
#: Weights of red, green and blue in gray, as multiples of 1 / 2^16: ITU-R 601-2.
GREY = (19595, 38470, 7471)
#: Weights of Pillow's SMOOTH filter, which sum to 13.
SMOOTH_CENTRE, SMOOTH_SUM = 5, 13


def blend(xp: Any, degenerate: Array, image: Array, factor: Array) -> Array:
    """Return ``degenerate + factor (image - degenerate)``, truncated to integers and clipped to 0 .. 255.

    Args:
        xp: numpy or jax.numpy.
        degenerate: integers, the result for a factor of 0.
        image: integers, the result for a factor of 1.
        factor: float32; above 1 it extrapolates.

    >>> blend(np, np.array([0, 100]), np.array([101, 50]), np.float32(0.5)).tolist()
    [50, 75]
    """
    difference = image.astype(xp.int32) - degenerate.astype(xp.int32)
    # the bound is never reached; it separates product and sum, which a compiler would otherwise contract to a single
    # rounding
    product = xp.maximum(xp.asarray(factor, xp.float32) * difference.astype(xp.float32), xp.float32(-1e9))
    total = degenerate.astype(xp.float32) + product
    return xp.clip(total, 0, 255).astype(xp.int32)


class Counts:
    """What the lookup tables of an image depend on, computed once on first use.

    Args:
        xp: numpy or jax.numpy.
        image: uint8 (height, width, channels).
    """

    def __init__(self, xp: Any, image: Array) -> None:
        self.xp, self.image = xp, image

    @functools.cached_property
    def histogram(self) -> Array:
        """Number of pixels with each value, int32 (channels, 256)."""
        xp, channels = self.xp, self.image.shape[-1]
        values = self.image.reshape(-1, channels).astype(xp.int32) + xp.arange(channels, dtype=xp.int32)[None] * LEVELS
        counts = xp.bincount(values.ravel(), **_length(xp, channels * LEVELS))
        return counts.reshape(channels, LEVELS).astype(xp.int32)

    @functools.cached_property
    def grey_mean(self) -> Array:
        """The mean of the image in gray, rounded half up."""
        xp = self.xp
        values = grey(xp, self.image)
        count = int(np.prod(values.shape))
        total = values.astype(xp.uint32).sum(dtype=xp.uint32)
        whole, rest = total // xp.uint32(count), total % xp.uint32(count)
        return whole.astype(xp.int32) + (2 * rest >= count).astype(xp.int32)


def _length(xp: Any, length: int) -> dict[str, int]:
    return {"minlength": length} if xp is np else {"length": length}


def grey(xp: Any, image: Array) -> Array:
    """Return an image's luminance, int32 (height, width): 0.299 R + 0.587 G + 0.114 B in 16-bit fixed point, rounded.

    For an image with one channel this is the channel.
    """
    values = image.astype(xp.int32)
    if image.shape[-1] != 3:
        return values[..., 0]
    red, green, blue = (values[..., channel] for channel in range(3))
    return (red * GREY[0] + green * GREY[1] + blue * GREY[2] + 0x8000) >> 16


def greyed(xp: Any, image: Array) -> Array:
    """Return an image with its luminance in every channel: the result for saturation 0."""
    if image.shape[-1] != 3:
        return image.astype(xp.int32)
    return xp.broadcast_to(grey(xp, image)[..., None], image.shape)


def smoothed(xp: Any, image: Array) -> Array:
    """Return an image averaged over 3 x 3 pixels, the center counted 5 times; its border is unchanged. Sharpness 0."""
    values = image.astype(xp.int32)
    if min(image.shape[:2]) < 3:
        return values
    rows = values[:-2] + values[1:-1] + values[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + (SMOOTH_CENTRE - 1) * values[1:-1, 1:-1]
    inner = (2 * total + SMOOTH_SUM) // (2 * SMOOTH_SUM)
    middle = xp.concatenate([values[1:-1, :1], inner, values[1:-1, -1:]], axis=1)
    return xp.concatenate([values[:1], middle, values[-1:]], axis=0)


def _alike(counts: Counts, table: Array) -> Array:
    """Return one table (256,) for every channel."""
    return counts.xp.broadcast_to(table, (counts.image.shape[-1], LEVELS))


def _values(xp: Any) -> Array:
    return xp.arange(LEVELS, dtype=xp.int32)


def identity(counts: Counts, _: Array) -> Array:
    """Keep every value."""
    return _alike(counts, _values(counts.xp))


def brightness(counts: Counts, factor: Array) -> Array:
    """Blend with black."""
    xp = counts.xp
    return _alike(counts, blend(xp, xp.zeros(LEVELS, xp.int32), _values(xp), factor))


def contrast(counts: Counts, factor: Array) -> Array:
    """Blend with the mean of the image in gray."""
    xp = counts.xp
    return _alike(counts, blend(xp, xp.broadcast_to(counts.grey_mean, (LEVELS,)), _values(xp), factor))


def posterize(counts: Counts, bits: Array) -> Array:
    """Keep only this many upper bits, 0 to 8; a fraction of a bit is truncated."""
    xp = counts.xp
    dropped = 8 - xp.clip(xp.asarray(bits).astype(xp.int32), 0, 8)
    return _alike(counts, (_values(xp) >> dropped) << dropped)


def solarize(counts: Counts, threshold: Array) -> Array:
    """Invert values from the threshold on."""
    xp = counts.xp
    values = _values(xp)
    return _alike(counts, xp.where(values.astype(xp.float32) < threshold, values, 255 - values))


def solarize_add(counts: Counts, added: Array) -> Array:
    """Add a number to values below 128, up to 255 at most (timm's ``SolarizeAdd``)."""
    xp = counts.xp
    values = _values(xp)
    return _alike(counts, xp.where(values < 128, xp.clip(values + xp.asarray(added).astype(xp.int32), 0, 255), values))


def invert(counts: Counts, _: Array) -> Array:
    """Replace each value by 255 minus the value."""
    return _alike(counts, 255 - _values(counts.xp))


def autocontrast(counts: Counts, _: Array) -> Array:
    """Stretch each channel so that its smallest value becomes 0 and its largest 255."""
    xp, channels = counts.xp, counts.image.shape[-1]
    pixels = counts.image.reshape(-1, channels).astype(xp.int32)
    low, high = pixels.min(0)[:, None], pixels.max(0)[:, None]
    width, values = high - low, _values(xp)[None]
    over = xp.clip(values - low, 0, width)
    stretched = over * 255 // xp.maximum(width, 1) - _rounded_down(xp, width, low, over)
    return xp.where(width > 0, stretched, values)


def _rounded_down(xp: Any, width: Array, low: Array, over: Array) -> Array:
    """Return 1 where ``over * 255 / width`` is an integer and Pillow's float64 sum falls just short of it."""
    first, parts, short = (xp.asarray(table) for table in _shortfalls())
    share = parts[width]
    whole = (over * 255 % xp.maximum(width, 1) == 0) & (width > 0)
    place = first[width] + low * (share + 1) + over * share // xp.maximum(width, 1)
    return xp.where(whole, short[xp.where(whole, place, 0)].astype(xp.int32), 0)


@functools.cache
def _shortfalls() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where the float64 expression of ``PIL.ImageOps.autocontrast`` falls short of an integer by rounding.

    Returns:
        For each width high - low: where its entries start, and g = gcd(width, 255); and the entries, bool, of a width
        in the order of ``low`` and then of the g + 1 values whose exact results are integers.
    """
    first, parts, short, length = np.zeros(LEVELS, np.int32), np.zeros(LEVELS, np.int32), [], 0
    for width in range(1, LEVELS):
        share = int(np.gcd(width, 255))
        low = np.arange(LEVELS - width, dtype=np.float64)[:, None]
        over = np.arange(share + 1) * (width // share)
        scale = 255.0 / width
        found = ((low + over) * scale + -low * scale).astype(np.int32)
        short.append((found < over * 255 // width).ravel())
        first[width], parts[width], length = length, share, length + short[-1].size
    return first, parts, np.concatenate(short)


def equalize(counts: Counts, _: Array) -> Array:
    """Spread the values of each channel so that all are about equally frequent."""
    xp, histogram = counts.xp, counts.histogram
    values = _values(xp)[None]
    last = xp.where(histogram > 0, values, -1).max(axis=1)[:, None]
    size = int(np.prod(counts.image.shape[:2]))
    step = (size - xp.take_along_axis(histogram, last, axis=1)) // 255
    before = xp.cumsum(histogram, axis=1) - histogram
    table = xp.clip((step // 2 + before) // xp.maximum(step, 1), 0, 255)
    return xp.where(step > 0, table, values).astype(xp.int32)


def looked_up(xp: Any, image: Array, table: Array) -> Array:
    """Return ``table[channel, value]`` of every value, uint8."""
    channels = image.shape[-1]
    table = table.astype(xp.uint8)
    if xp is np:
        if channels in (1, 3):
            import cv2

            return cv2.LUT(image, np.ascontiguousarray(table.T)[None]).reshape(image.shape)
        return np.stack([table[c][image[..., c]] for c in range(channels)], axis=-1)
    return table[xp.arange(channels)[None, None], image.astype(xp.int32)]
