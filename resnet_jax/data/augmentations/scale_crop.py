"""A crop of an image at a random scale, with any height and width: the usual augmentation for dense prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from resnet_jax.data.augmentations.base import ForExample, between, unit
from resnet_jax.data.example import Spec
from resnet_jax.data.operations.fields import cut_off, mask_fill, moved
from resnet_jax.data.transforms import register_transform
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, Positive

Array = Any


@register_transform("random_scale_crop")
@dataclass(frozen=True)
class RandomScaleCrop(ForExample):
    """Scales the image randomly, then crops a random part of a given height and width; black beyond the image.

    Pixels are averaged when the image shrinks and interpolated when it grows; masks use the nearest pixel, and
    ``segmentation`` is 255, no class, beyond the border. If a side is longer than that of the scaled image, the crop
    contains all of it, at a random position.

    Attributes:
        height: height of the result in pixels.
        width: width of the result in pixels.
        low: smallest scale, relative to the stored image.
        high: largest scale; scales in between are uniform.
    """

    height: AtLeast1
    width: AtLeast1
    low: Positive = 0.5
    high: Positive = 2.0
    name: ClassVar = "random_scale_crop"
    words: ClassVar = 3
    #: The result has its own size, whatever size evaluation uses.
    resizes: ClassVar = True

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise UsageError(f"random_scale_crop: low {self.low:g} is above high {self.high:g}")
        if self.where == "host":
            raise UsageError(
                "random_scale_crop changes the sides of training images only, within the step: leave where out"
            )

    def one(self, xp: Any, fields: dict[str, Array], words: Array, spec: Spec) -> dict[str, Array]:
        """Crop one image, its masks and its boxes."""
        step = 1.0 / between(xp, words[0], self.low, self.high)  # stored pixels of one of the result
        places = [
            (side, length, unit(xp, word) * (xp.float32(side) - step * length))
            for side, length, word in zip(fields["image"].shape, (self.height, self.width), words[1:], strict=False)
        ]
        rows, columns = (_averages(xp, *place, step) for place in places)
        (row, row_in), (column, column_in) = (_nearest(xp, *place, step) for place in places)
        inside = row_in[:, None] & column_in[None]

        def image(values: Array) -> Array:
            found = xp.einsum("ph,qw,hwc->pqc", rows, columns, values.astype(xp.float32))
            found = found if xp.issubdtype(values.dtype, xp.floating) else xp.round(found)
            return xp.where(inside[..., None], found, xp.zeros_like(found)).astype(values.dtype)

        def mask(name: str, values: Array) -> Array:
            found = values[row][:, column]
            beyond = inside.reshape(*inside.shape, *(1,) * (found.ndim - 2))
            return xp.where(beyond, found, xp.full_like(found, mask_fill(name)))

        def boxes(values: Array) -> Array:
            starts = xp.stack([places[0][2], places[1][2]] * 2)
            return ((values.astype(xp.float32) - starts[None]) / step).astype(values.dtype)

        return cut_off(xp, moved(fields, spec, image, mask, boxes), spec, (self.height, self.width))


def _averages(xp: Any, side: int, length: int, start: Array, step: Array) -> Array:
    """Return the weights of stored pixels in those of the result, (length, side): triangles as wide as a step."""
    middles = start + (xp.arange(length, dtype=xp.float32) + 0.5) * step
    away = xp.abs(middles[:, None] - (xp.arange(side, dtype=xp.float32) + 0.5)[None])
    shares = xp.maximum(1 - away / xp.maximum(step, xp.float32(1)), xp.float32(0))
    return shares / xp.maximum(shares.sum(axis=1, keepdims=True), xp.float32(1e-6))


def _nearest(xp: Any, side: int, length: int, start: Array, step: Array) -> tuple[Array, Array]:
    """Return the stored pixel that contains each pixel of the result, and whether there is one."""
    place = xp.floor(start + (xp.arange(length, dtype=xp.float32) + 0.5) * step).astype(xp.int32)
    return xp.clip(place, 0, side - 1), (place >= 0) & (place < side)
