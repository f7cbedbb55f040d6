"""The policies: RandAugment, TrivialAugment and AutoAugment, with the constants of torchvision 0.29 or timm 1.0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Interval

from resnet_jax.data.augmentations.auto_tables import PolicyName, sub_policies
from resnet_jax.data.augmentations.policy import Layer, Magnitudes, Policy, layer_of
from resnet_jax.data.transforms import register_transform
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, NotNegative, Share

#: Levels of RandAugment and TrivialAugment in torchvision, and of AutoAugment.
BINS, AUTO_BINS = 31, 10
#: Number of quantiles for timm's normally distributed level.
QUANTILES = 1024
#: Translations in the AutoAugment papers: 150 of 331 pixels.
TRANSLATE = 150 / 331

Operations = Literal["torchvision", "timm"]


@register_transform("rand_augment")
@dataclass(frozen=True)
class RandAugment(Policy):
    """n random operations from a set, at one magnitude: E. D. Cubuk et al., RandAugment (2019, arXiv 1909.13719).

    ``rand_augment(2, 9)`` is torchvision's default. ``rand_augment(2, 9, operations='timm', std=0.5)`` is timm's
    ``rand-m9-mstd0.5-inc1``, except for the interpolation, which timm draws from bilinear and bicubic, and its gray
    border.

    Attributes:
        n: number of operations per image.
        m: their magnitude; 0 to 30 in torchvision's set, 0 to 10 in timm's.
        operations: ``torchvision``: 14 operations, always applied; ``timm``: 15 that increase in strength with m.
        std: standard deviation of the magnitude, for timm's set.
        probability: probability that an operation of timm's set is applied.
    """

    n: AtLeast1 = 2
    m: Annotated[float, Interval(ge=0.0, le=30.0)] = 9.0
    operations: Operations = "torchvision"
    std: NotNegative = 0.0
    probability: Share = 0.5
    name: ClassVar = "rand_augment"

    def __post_init__(self) -> None:
        if self.operations == "torchvision":
            if self.m != int(self.m) or self.std or self.probability != 0.5:
                raise UsageError(
                    "rand_augment: with torchvision's operations m is a whole number of 0 to 30, and std and "
                    "probability are left out; they are of operations='timm'"
                )
        elif self.m > 10:
            raise UsageError(f"rand_augment: with timm's operations m is at most 10, got {self.m:g}")

    @property
    def count(self) -> int:
        """The number of layers."""
        return self.n

    def layers(self, height: int, width: int) -> list[Layer]:
        """Return the layers, which are all alike."""
        if self.operations == "timm":
            table, chance = timm_magnitudes(timm_levels(self.m, self.std)), self.probability
        else:
            table, chance = rand_magnitudes(BINS, height, width), 1.0
            table = {name: values[int(self.m)][None] for name, values in table.items()}
        return [layer_of([(name, chance) for name in table], list(table.values()))] * self.n


@register_transform("trivial_augment")
@dataclass(frozen=True)
class TrivialAugment(Policy):
    """One operation at a random magnitude: S. G. Müller and F. Hutter, TrivialAugment (ICCV 2021), the wide set."""

    name: ClassVar = "trivial_augment"

    @property
    def count(self) -> int:
        """The number of layers."""
        return 1

    def layers(self, height: int, width: int) -> list[Layer]:
        """Return the single layer."""
        table = trivial_magnitudes(BINS)
        return [layer_of([(name, 1.0) for name in table], list(table.values()))]


@register_transform("auto_augment")
@dataclass(frozen=True)
class AutoAugment(Policy):
    """One of 25 learned pairs of operations: E. D. Cubuk et al., AutoAugment (CVPR 2019, arXiv 1805.09501).

    Attributes:
        policy: the data set it was learned on: cifar10, imagenet or svhn.
    """

    policy: PolicyName = "imagenet"
    name: ClassVar = "auto_augment"
    shares_row: ClassVar = True

    @property
    def count(self) -> int:
        """The number of layers."""
        return 2

    def layers(self, height: int, width: int) -> list[Layer]:
        """Return the first operations of the pairs, and the second."""
        table = auto_magnitudes(AUTO_BINS, height, width)
        found = []
        for steps in zip(*sub_policies(self.policy), strict=True):
            rows = [(name, probability) for name, probability, _ in steps]
            found.append(layer_of(rows, [table[name][place][None] for name, _, place in steps]))
        return found


def _both(values: Any) -> np.ndarray:
    """Return (levels, 2): the values, and their negatives."""
    return np.stack([values, -np.asarray(values)], axis=-1)


def _same(values: Any) -> np.ndarray:
    return np.stack([values, values], axis=-1)


def _to(high: float, bins: int) -> np.ndarray:
    """Return 0 to high in equal steps, rounded as in torch.linspace: once, to float32, from the nearer end.

    So half of 32 pixels is 15.999999, which is truncated to 15, not 16.
    """
    step, place = np.float64(np.float32(high) / np.float32(bins - 1)), np.arange(bins)
    values = np.where(place < bins // 2, step * place, np.float32(high) - step * (bins - 1 - place))
    return values.astype(np.float32).astype(np.float64)


def rising_both(high: float, bins: int) -> np.ndarray:
    """Return 0 to high in equal steps, and their negatives, (bins, 2)."""
    return _both(_to(high, bins))


def rand_magnitudes(bins: int, height: int, width: int) -> dict[str, np.ndarray]:
    """Return the magnitudes (bins, 2) of torchvision's RandAugment, for every operation in its order."""
    place = np.arange(bins)
    shear, enhanced, nothing = _both(_to(0.3, bins)), 1 + _both(_to(0.9, bins)), np.zeros((bins, 2))
    return {
        "identity": nothing,
        "shear_x": shear,
        "shear_y": shear,
        "translate_x": np.trunc(_both(_to(TRANSLATE * width, bins))),
        "translate_y": np.trunc(_both(_to(TRANSLATE * height, bins))),
        "rotate": _both(_to(30.0, bins)),
        "brightness": enhanced,
        "saturation": enhanced,
        "contrast": enhanced,
        "sharpness": enhanced,
        "posterize": _same(8 - np.round(place / ((bins - 1) / 4))),
        "solarize": _same(np.linspace(255.0, 0.0, bins)),
        "autocontrast": nothing,
        "equalize": nothing,
    }


def auto_magnitudes(bins: int, height: int, width: int) -> dict[str, np.ndarray]:
    """Return the magnitudes of torchvision's AutoAugment: those of RandAugment, and inversion."""
    return {**rand_magnitudes(bins, height, width), "invert": np.zeros((bins, 2))}


def trivial_magnitudes(bins: int) -> dict[str, np.ndarray]:
    """Return the magnitudes (bins, 2) of torchvision's TrivialAugmentWide, for every operation in its order."""
    place = np.arange(bins)
    strong, shift = _both(_to(0.99, bins)), np.trunc(_both(_to(32.0, bins)))
    return {
        **rand_magnitudes(bins, 1, 1),
        "shear_x": strong,
        "shear_y": strong,
        "translate_x": shift,
        "translate_y": shift,
        "rotate": _both(_to(135.0, bins)),
        **dict.fromkeys(("brightness", "saturation", "contrast", "sharpness"), 1 + strong),
        "posterize": _same(8 - np.round(place / ((bins - 1) / 6))),
    }


def timm_levels(m: float, std: float) -> np.ndarray:
    """Return equally likely levels of a normal distribution around m, clipped to 0 .. 10; one level for std 0."""
    if not std:
        return np.array([m])
    from scipy.special import ndtri

    return np.clip(m + std * ndtri((np.arange(QUANTILES) + 0.5) / QUANTILES), 0.0, 10.0)


def timm_magnitudes(levels: np.ndarray) -> Magnitudes:
    """Return the magnitudes (levels, 2) of timm's set with increasing strength (``inc1``), in its order."""
    share = levels / 10
    nothing, shift, shear = np.zeros((len(levels), 2)), _both(0.45 * share), _both(0.3 * share)
    enhanced = np.maximum(0.1, 1 + _both(0.9 * share))
    return {
        "autocontrast": nothing,
        "equalize": nothing,
        "invert": nothing,
        "rotate": _both(30 * share),
        "posterize": _same(4 - np.trunc(share * 4)),
        "solarize": _same(256 - np.trunc(share * 256)),
        "solarize_add": _same(np.minimum(128, np.trunc(share * 110))),
        "saturation": enhanced,
        "contrast": enhanced,
        "brightness": enhanced,
        "sharpness": enhanced,
        "shear_x": shear,
        "shear_y": shear,
        "translate_x_rel": shift,
        "translate_y_rel": shift,
    }
