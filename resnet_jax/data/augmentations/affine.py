"""A random affine transform: rotation, translation, scaling and shear at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from resnet_jax.data.augmentations.base import ForExample, between, unit, with_chance
from resnet_jax.data.example import Spec
from resnet_jax.data.operations.affine import Interpolation, general
from resnet_jax.data.operations.fields import mapped
from resnet_jax.data.transforms import register_transform
from resnet_jax.errors import UsageError
from resnet_jax.fields import NotNegative, Positive, Share

Array = Any


@register_transform("random_affine")
@dataclass(frozen=True)
class RandomAffine(ForExample):
    """Random rotation, translation, scale and shear about the center, in one step: torchvision's RandomAffine.

    Attributes:
        degrees: the rotation is uniform in -degrees .. degrees.
        translate: largest translation as a fraction of the side, rounded to whole pixels.
        low: smallest scale factor.
        high: largest scale factor.
        shear: the shear along x is uniform in -shear .. shear degrees.
        probability: probability that an image is transformed.
        interpolation: nearest, or bilinear; masks use the nearest pixel.
        fill: value beyond the border: a number, or one per channel.
    """

    degrees: NotNegative = 0.0
    translate: Share = 0.0
    low: Positive = 1.0
    high: Positive = 1.0
    shear: NotNegative = 0.0
    probability: Share = 1.0
    interpolation: Interpolation = "nearest"
    fill: float | tuple[float, ...] = 0.0
    name: ClassVar = "random_affine"
    words: ClassVar = 6
    carried: ClassVar = ("degrees", "translate", "low", "high", "shear", "probability")

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise UsageError(f"random_affine: low {self.low:g} is above high {self.high:g}")
        if self.shear >= 90:
            raise UsageError(f"random_affine: shear must be below 90 degrees, got {self.shear:g}")

    def one(self, xp: Any, fields: dict[str, Array], words: Array, spec: Spec) -> dict[str, Array]:
        """Transform one image, its masks and its boxes."""
        height, width = fields["image"].shape[:2]
        right, down = (
            xp.round((2 * unit(xp, word) - 1) * xp.float32(self.translate * side))
            for word, side in ((words[2], width), (words[3], height))
        )
        transform = general(
            xp,
            height,
            width,
            angle=between(xp, words[1], -self.degrees, self.degrees),
            factor=between(xp, words[4], self.low, self.high),
            shear=(between(xp, words[5], -self.shear, self.shear), xp.float32(0)),
            by=(right, down),
        )

        def change(fields: dict[str, Array]) -> dict[str, Array]:
            return mapped(xp, fields, spec, transform, fill=self.fill, interpolation=self.interpolation)

        return with_chance(xp, words[0], self.probability, fields, change)
