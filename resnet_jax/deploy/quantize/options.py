"""What ``resnet-jax quantize`` can be told."""

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
    """How a network is quantized."""

    kind: tuple[Kind, ...] = ("static",)
    """static: weights and activations in 8 bits, calibrated; qat: the same after training with rounding in the loop;
    weights: int8 weights, computed in float32; bf16: bfloat16 weights, likewise. Several give a file each."""
    calibration: AtLeast1 = 1024
    """Training images that the ranges of activations are measured on."""
    method: Method = "averaged"
    """Range of an activation: averaged (ends of each 64 images, averaged), minmax (all of it), percentile (99.99 %),
    mse (least squared error) or entropy."""
    reduce_range: bool = False
    """Weights of 7 bits: exact on x86 processors without VNNI, whose products of 8 bits can saturate."""
    steps: AtLeast1 = 400
    """kind qat: updates."""
    learning_rate: Positive = 1e-3
    """kind qat: at the start; it falls to 0 along a cosine. SGD with momentum 0.9."""
    batch_size: AtLeast1 = 128
    """kind qat: images of an update."""
    seed: AtLeast0 = 0
    """Of the choice of images, and of the order and augmentation of training."""

    def __post_init__(self):
        """Check the values; raises UsageError."""
        check_fields(self)
        if len(set(self.kind)) != len(self.kind) or not self.kind:
            raise UsageError(f"kind names each form once, of {', '.join(KINDS)}; got {' '.join(self.kind) or 'none'}")

    @property
    def most_weight(self) -> int:
        """Steps from 0 to the largest weight of a channel."""
        return 63 if self.reduce_range else 127
