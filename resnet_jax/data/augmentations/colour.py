"""Color jitter, and blur."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from resnet_jax.data.augmentations.base import ForExample, between, with_chance
from resnet_jax.data.example import Spec
from resnet_jax.data.operations import OPERATIONS, apply_chosen
from resnet_jax.data.operations.blur import blurred
from resnet_jax.data.transforms import register_transform
from resnet_jax.errors import UsageError
from resnet_jax.fields import NotNegative, Positive, Share, is_known, is_on

Array = Any


@register_transform("colour_jitter")
@dataclass(frozen=True)
class ColourJitter(ForExample):
    """Random brightness, contrast, saturation and hue, in random order: torchvision's ColorJitter.

    Attributes:
        brightness: the factor is uniform in 1 - b .. 1 + b, at least 0.
        contrast: likewise.
        saturation: likewise.
        hue: the rotation is uniform in -hue .. hue, as a fraction of the circle; at most 0.5.
        probability: probability that an image is changed.
    """

    brightness: NotNegative = 0.0
    contrast: NotNegative = 0.0
    saturation: NotNegative = 0.0
    hue: NotNegative = 0.0
    probability: Share = 1.0
    name: ClassVar = "colour_jitter"
    coloured: ClassVar = True
    bytes_only: ClassVar = True
    words: ClassVar = 9
    carried: ClassVar = ("brightness", "contrast", "saturation", "hue", "probability")

    def __post_init__(self) -> None:
        if self.hue > 0.5:
            raise UsageError(f"colour_jitter: hue must be at most 0.5, half the circle, got {self.hue:g}")
        if not self.ranges():
            raise UsageError("colour_jitter: give brightness, contrast, saturation or hue, such as 0.4")

    def ranges(self, xp: Any = np) -> dict[str, tuple[Array, Array]]:
        """Return the requested operations, and the magnitudes of each."""
        amounts = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}
        factors = {
            name: (max(0.0, 1 - amount) if is_known(amount) else xp.maximum(0.0, 1 - amount), 1 + amount)
            for name, amount in amounts.items()
            if is_on(amount)
        }
        return factors | ({"hue": (-self.hue, self.hue)} if is_on(self.hue) else {})

    def one(self, xp: Any, fields: dict[str, Array], words: Array, spec: Spec) -> dict[str, Array]:
        """Change the colors of one image."""
        ranges = self.ranges(xp)
        rows = tuple(OPERATIONS[name] for name in ranges)
        magnitudes = xp.stack([between(xp, words[1 + i], *limits) for i, limits in enumerate(ranges.values())])
        order = xp.argsort(words[5 : 5 + len(rows)])

        def change(fields: dict[str, Array]) -> dict[str, Array]:
            for place in range(len(rows)):
                which = order[place]
                fields = apply_chosen(xp, fields, spec, rows, which, magnitudes[which])
            return fields

        return with_chance(xp, words[0], self.probability, fields, change)


@register_transform("gaussian_blur")
@dataclass(frozen=True)
class GaussianBlur(ForExample):
    """Gaussian blur of random width: torchvision's GaussianBlur (SimCLR: 23 for 224 pixels, 0.1 to 2, probability 0.5).

    Attributes:
        size: side of the kernel in pixels, odd.
        low: smallest standard deviation in pixels.
        high: largest standard deviation.
        probability: probability that an image is blurred.
    """

    size: int
    low: Positive = 0.1
    high: Positive = 2.0
    probability: Share = 1.0
    name: ClassVar = "gaussian_blur"
    bytes_only: ClassVar = True
    words: ClassVar = 2
    carried: ClassVar = ("low", "high", "probability")

    def __post_init__(self) -> None:
        if self.size < 3 or self.size % 2 == 0:
            raise UsageError(f"gaussian_blur: size must be odd and at least 3, got {self.size}")
        if self.low > self.high:
            raise UsageError(f"gaussian_blur: low {self.low:g} is above high {self.high:g}")

    def one(self, xp: Any, fields: dict[str, Array], words: Array, spec: Spec) -> dict[str, Array]:
        """Blur one image."""
        sigma = between(xp, words[1], self.low, self.high)
        if self.size // 2 >= min(fields["image"].shape[:2]):
            raise UsageError(
                f"gaussian_blur: a kernel of {self.size} pixels is mirrored at the border of images of "
                f"{fields['image'].shape[:2]}; take a smaller one"
            )

        def change(fields: dict[str, Array]) -> dict[str, Array]:
            return {**fields, "image": blurred(xp, fields["image"], self.size, sigma)}

        return with_chance(xp, words[0], self.probability, fields, change)
