"""Options of ``resnet-jax quantize``."""

from __future__ import annotations

import dataclasses
from typing import Literal

from resnet_jax.deploy.quantize.ranges import Method
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast0, AtLeast1, Positive, check_fields

Kind = Literal["static", "qat", "weights", "bf16"]
KINDS: dict[str, str] = {
    "static": "int8, calibrated",
    "qat": "int8, trained for it",
    "weights": "int8 weights alone",
    "bf16": "bfloat16 weights alone",
}


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How to quantize a network."""

    kind: tuple[Kind, ...] = ("static",)
    """Kind of quantization: static (8-bit weights and activations, calibrated), qat (the same after quantization-aware
    training), weights (int8 weights, computed in float32) or bf16 (bfloat16 weights, computed in float32). Several
    kinds write one file each."""
    calibration: AtLeast1 = 1024
    """Number of training images on which the ranges of activations are measured."""
    method: Method = "averaged"
    """Range of an activation: averaged (the ends of every 64 images, averaged), minmax (all values), percentile (99.99
    %), mse (least squared error) or entropy."""
    reduce_range: bool = False
    """Use 7-bit weights. They are exact on x86 processors without VNNI, whose 8-bit products can saturate."""
    steps: AtLeast1 = 400
    """Number of updates, for kind qat."""
    learning_rate: Positive = 1e-3
    """Initial learning rate, for kind qat: SGD with momentum 0.9. It falls to 0 along a cosine."""
    batch_size: AtLeast1 = 128
    """Images per update, for kind qat."""
    seed: AtLeast0 = 0
    """Seed of the choice of images and of the order and augmentation in training."""

    def __post_init__(self):
        """Check the values; raises UsageError."""
        check_fields(self)
        if len(set(self.kind)) != len(self.kind) or not self.kind:
            raise UsageError(
                f"kind must name each form at most once, from {', '.join(KINDS)}; got {' '.join(self.kind) or 'none'}"
            )

    @property
    def most_weight(self) -> int:
        """Steps from 0 to the largest weight of a channel."""
        return 63 if self.reduce_range else 127
