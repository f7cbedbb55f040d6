"""Two images in one, with their labels: mixup, cutmix, or either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from resnet_jax.data.augmentations.base import require_images
from resnet_jax.data.example import Spec
from resnet_jax.data.transforms import Needs, register_transform
from resnet_jax.errors import UsageError
from resnet_jax.fields import NotNegative, Positive, Share


@dataclass(frozen=True)
class _Mixing:
    where: ClassVar = "device"
    needs: ClassVar[Needs] = "normalized"
    stream: ClassVar = 0x6D6978
    mixes: ClassVar = True
    carried: ClassVar[tuple[str, ...]] = ("alpha", "probability")

    def alphas(self) -> tuple[float, float, float]:
        """Return mixup's alpha, cutmix's alpha and the probability."""
        raise NotImplementedError

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Mix every two adjacent examples, and their labels."""
        from resnet_jax.data.mix import Mix as Choice, mix_of

        choice = Choice(*self.alphas())
        if not choice:
            return batch
        require_images("mixing", batch)
        others = [name for name, field in spec.items() if field.meaning in ("mask", "boxes")]
        if others:
            raise UsageError(f"images are not mixed where there are masks or boxes, and there is {others[0]}")
        images, labels = mix_of(keys, batch["image"], batch["label"], choice)
        return {**batch, "image": images, "label": labels}


@register_transform("mixup")
@dataclass(frozen=True)
class Mixup(_Mixing):
    """Weighted average of two images and of their labels (CIFAR: 1, ImageNet: 0.2).

    Attributes:
        alpha: parameter of the Beta(alpha, alpha) distribution of the weight.
        probability: probability that an image is mixed.
    """

    alpha: Positive
    probability: Share = 1.0

    def alphas(self) -> tuple[float, float, float]:
        """Return only mixup's alpha."""
        return self.alpha, 0.0, self.probability


@register_transform("cutmix")
@dataclass(frozen=True)
class CutMix(_Mixing):
    """Pastes a box of one image into another; labels are mixed by visible area (usual alpha: 1).

    Attributes:
        alpha: parameter of the Beta(alpha, alpha) distribution of the box's area.
        probability: probability that an image is mixed.
    """

    alpha: Positive
    probability: Share = 1.0

    def alphas(self) -> tuple[float, float, float]:
        """Return only cutmix's alpha."""
        return 0.0, self.alpha, self.probability


@register_transform("mix")
@dataclass(frozen=True)
class Mix(_Mixing):
    """Mixup or cutmix: each image gets one of the two, with equal probability.

    Attributes:
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of cutmix; 0 for none.
        probability: probability that an image is mixed at all.
    """

    carried: ClassVar = ("mixup", "cutmix", "probability")
    mixup: NotNegative
    cutmix: NotNegative
    probability: Share = 1.0

    def alphas(self) -> tuple[float, float, float]:
        """Return both alphas."""
        return self.mixup, self.cutmix, self.probability
