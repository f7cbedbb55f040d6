"""The transforms of this package, by their names; JAX is imported when one is applied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from resnet_jax.data.example import Example, Spec
from resnet_jax.data.transforms import Needs, register_transform
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, NotNegative, Positive, Share


@register_transform("random_resized_crop")
@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, of 8 to 100 % of its area, brought to data.image_size (ImageNet).

    What it does is :class:`resnet_jax.data.transform.Geometry`'s, for evaluation goes with it.
    """

    where: ClassVar = "host"

    def apply(self, example: Example, rng: Any, spec: Spec, /) -> Example:
        """Not called: the geometry does it."""
        raise NotImplementedError


@register_transform("random_crop")
@dataclass(frozen=True)
class RandomCrop:
    """Zero pixels added on each side, then a random crop back to size (CIFAR: 4).

    Zero is black, before normalization, as in torchvision's ``RandomCrop(32, padding=4)``; of a mask it is background.

    Attributes:
        pad: pixels a side.
    """

    pad: AtLeast1
    where: ClassVar = "device"
    needs: ClassVar[Needs] = "pixels"
    stream: ClassVar = None
    mixes: ClassVar = False

    def __post_init__(self) -> None:
        from resnet_jax.data.augment import Augment

        Augment(pad=self.pad)

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Crop every image, its masks and its boxes at its own place."""
        import jax.numpy as jnp

        from resnet_jax.data.augment import crop, draws_of

        _require_images("random_crop", batch)
        top, left, _ = draws_of(keys, self.pad)

        def moved(name: str, values: Any) -> Any:
            match _meaning(name, spec):
                case "image":
                    return crop(values, top, left, self.pad)
                case "mask":
                    flat = values.ndim == 3
                    cut = crop(values[..., None] if flat else values, top, left, self.pad)
                    return cut[..., 0] if flat else cut
                case "boxes":
                    by = jnp.stack([top, left, top, left], axis=-1)[:, None] - self.pad
                    shifted = values.astype(jnp.float32) - by.astype(jnp.float32)
                    return _inside(shifted, batch["image"].shape).astype(values.dtype)
                case _:
                    return values

        return {name: moved(name, values) for name, values in batch.items()}


@register_transform("flip")
@dataclass(frozen=True)
class Flip:
    """Mirror left and right (signals and volumes: the last axis before the channels) with probability 1/2."""

    where: ClassVar = "device"
    needs: ClassVar[Needs] = "any"
    stream: ClassVar = None
    mixes: ClassVar = False

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Mirror every other image at random, with its masks and boxes."""
        import jax.numpy as jnp

        from resnet_jax.data.augment import draws_of

        _, _, flip = draws_of(keys, 0)
        axis, width = batch["image"].ndim - 2, batch["image"].shape[-2]

        def moved(name: str, values: Any) -> Any:
            match _meaning(name, spec):
                case "image" | "mask":
                    mirrored = jnp.flip(values, axis)
                case "boxes":
                    top, left, bottom, right = (values[..., i] for i in range(4))
                    mirrored = jnp.stack([top, width - right, bottom, width - left], axis=-1)
                case _:
                    return values
            return jnp.where(flip.reshape(-1, *(1,) * (values.ndim - 1)), mirrored, values)

        return {name: moved(name, values) for name, values in batch.items()}


@register_transform("cutout")
@dataclass(frozen=True)
class Cutout:
    """A square around a random pixel is set to the mean of the data (CIFAR-10: 16, CIFAR-100: 8).

    Attributes:
        side: pixels.
    """

    side: AtLeast1
    where: ClassVar = "device"
    needs: ClassVar[Needs] = "normalized"
    stream: ClassVar = 0x637574
    mixes: ClassVar = False

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Set the squares to 0, what of them is in the image."""
        from resnet_jax.data.augment import cut_out

        _require_images("cutout", batch)
        return {**batch, "image": cut_out(keys, batch["image"], self.side)}


@dataclass(frozen=True)
class _Mixing:
    where: ClassVar = "device"
    needs: ClassVar[Needs] = "normalized"
    stream: ClassVar = 0x6D6978
    mixes: ClassVar = True

    def alphas(self) -> tuple[float, float, float]:
        """Return mixup's alpha, cutmix's alpha and the probability."""
        raise NotImplementedError

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Mix every two examples that lie together, and their labels."""
        from resnet_jax.data.mix import Mix as Choice, mix_of

        choice = Choice(*self.alphas())
        if not choice:
            return batch
        _require_images("mixing", batch)
        others = [name for name, field in spec.items() if field.meaning in ("mask", "boxes")]
        if others:
            raise UsageError(f"images are not mixed where there are masks or boxes, and there is {others[0]}")
        images, labels = mix_of(keys, batch["image"], batch["label"], choice)
        return {**batch, "image": images, "label": labels}


@register_transform("mixup")
@dataclass(frozen=True)
class Mixup(_Mixing):
    """The average of two images and of their labels (CIFAR: 1, ImageNet: 0.2).

    Attributes:
        alpha: of the Beta(alpha, alpha) that says how much of each.
        probability: of an image to be mixed.
    """

    alpha: Positive
    probability: Share = 1.0

    def alphas(self) -> tuple[float, float, float]:
        """Return mixup's alpha alone."""
        return self.alpha, 0.0, self.probability


@register_transform("cutmix")
@dataclass(frozen=True)
class CutMix(_Mixing):
    """A box of one image in another, and of their labels what is seen of each (1).

    Attributes:
        alpha: of the Beta(alpha, alpha) that says how large.
        probability: of an image to be mixed.
    """

    alpha: Positive
    probability: Share = 1.0

    def alphas(self) -> tuple[float, float, float]:
        """Return cutmix's alpha alone."""
        return 0.0, self.alpha, self.probability


@register_transform("mix")
@dataclass(frozen=True)
class Mix(_Mixing):
    """Mixup or cutmix: an image gets one of the two, each as often.

    Attributes:
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of cutmix; 0 for none.
        probability: of an image to be mixed at all.
    """

    mixup: NotNegative
    cutmix: NotNegative
    probability: Share = 1.0

    def alphas(self) -> tuple[float, float, float]:
        """Return both alphas."""
        return self.mixup, self.cutmix, self.probability


def _meaning(name: str, spec: Spec) -> str:
    return "image" if name == "image" else spec[name].meaning if name in spec else "array"


def _inside(boxes: Any, shape: tuple[int, ...]) -> Any:
    import jax.numpy as jnp

    _, height, width, _ = shape
    limits = jnp.array([height, width, height, width], jnp.float32)
    return jnp.clip(boxes, 0, limits.reshape(*(1,) * (boxes.ndim - 1), 4))


def _require_images(name: str, batch: dict[str, Any]) -> None:
    if batch["image"].ndim != 4:
        raise UsageError(
            f"{name} takes images (height, width, channels); these inputs are {batch['image'].shape[1:]}: leave it out"
        )
