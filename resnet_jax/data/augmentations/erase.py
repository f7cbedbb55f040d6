"""Removal of parts of images: cutout and random erasing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from resnet_jax.data.augmentations.base import require_images
from resnet_jax.data.example import Spec
from resnet_jax.data.transforms import Needs, register_transform
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, Share, is_known


@register_transform("cutout")
@dataclass(frozen=True)
class Cutout:
    """Sets a square around a random pixel to the mean of the data (CIFAR-10: 16, CIFAR-100: 8).

    Attributes:
        side: side of the square in pixels.
    """

    side: AtLeast1
    where: ClassVar = "device"
    needs: ClassVar[Needs] = "normalized"
    stream: ClassVar = 0x637574
    mixes: ClassVar = False

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Set the squares to 0, as far as they are in the image."""
        from resnet_jax.data.augment import cut_out

        require_images("cutout", batch)
        return {**batch, "image": cut_out(keys, batch["image"], self.side)}


@register_transform("random_erasing")
@dataclass(frozen=True)
class RandomErasing:
    """Sets a rectangle of random place, area and ratio to the mean, a random color or noise (Zhong et al. 2017).

    The defaults are torchvision's, except for the largest ratio, which is 1 / 0.3 as in timm: ten rectangles are drawn,
    and the first one smaller than the image is used. Masks and boxes are not changed.

    Attributes:
        probability: probability that an image loses a rectangle.
        low: smallest fraction of the area.
        high: largest fraction of the area.
        ratio: smallest height / width, or width / height.
        mode: constant: the mean of the data; random: a color from N(0, 1), normalized; pixel: such a color for each
            pixel.
    """

    probability: Share = 0.5
    low: Share = 0.02
    high: Share = 0.33
    ratio: Share = 0.3
    mode: Literal["constant", "random", "pixel"] = "constant"
    where: ClassVar = "device"
    needs: ClassVar[Needs] = "normalized"
    stream: ClassVar = 0x657261
    mixes: ClassVar = False
    tries: ClassVar = 10
    carried: ClassVar = ("probability", "low", "high", "ratio")

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise UsageError(f"random_erasing: low must be above 0 and at most high, got {self.low} and {self.high}")
        if self.ratio == 0:
            raise UsageError("random_erasing: ratio must be above 0")

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Erase a rectangle in every selected image."""
        import jax
        import jax.numpy as jnp

        require_images("random_erasing", batch)

        def erased(image: Any, key: Any) -> Any:
            draw, paint = jax.random.split(key)
            uniform = jax.random.uniform(draw, (4 * self.tries + 1,))
            inside = self.rectangle(uniform[1:].reshape(4, self.tries), image.shape[0], image.shape[1])
            match self.mode:
                case "constant":
                    value = jnp.zeros((1, 1, image.shape[-1]), image.dtype)
                case "random":
                    value = jax.random.normal(paint, (1, 1, image.shape[-1])).astype(image.dtype)
                case "pixel":
                    value = jax.random.normal(paint, image.shape).astype(image.dtype)
            return jnp.where((inside & (uniform[0] < self.probability))[..., None], value, image)

        return {**batch, "image": jax.vmap(erased)(batch["image"], keys)}

    def rectangle(self, uniform: Any, height: int, width: int) -> Any:
        """Return the first rectangle that is smaller than the image, bool (height, width); empty if none is.

        Args:
            uniform: area, ratio, top and left of each try, (4, tries) in [0, 1).
            height: height of the image.
            width: width of the image.
        """
        import jax.numpy as jnp

        area = height * width * (self.low + (self.high - self.low) * uniform[0])
        steepest = math.log(self.ratio) if is_known(self.ratio) else jnp.log(self.ratio)
        ratio = jnp.exp(steepest * (1 - 2 * uniform[1]))
        h, w = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
        fits = (h < height) & (w < width)
        first = jnp.argmax(fits)
        h, w = h[first], w[first]
        top = jnp.floor(uniform[2, first] * (height - h + 1))
        left = jnp.floor(uniform[3, first] * (width - w + 1))
        row = jnp.arange(height, dtype=jnp.float32)[:, None]
        column = jnp.arange(width, dtype=jnp.float32)[None]
        inside = (row >= top) & (row < top + h) & (column >= left) & (column < left + w)
        return inside & fits[first]
