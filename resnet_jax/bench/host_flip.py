"""Mirroring on the host, in a module that worker processes can import."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from resnet_jax.data.example import Example, Spec


@dataclasses.dataclass(frozen=True)
class HostFlip:
    """Half of the images mirrored, on the host as the peers do it; our runs do it within the step."""

    where: ClassVar = "host"

    def apply(self, example: Example, rng: np.random.Generator, spec: Spec, /) -> Example:
        """Mirror it or not."""
        if rng.random() >= 0.5:
            return example
        import cv2

        return {**example, "image": cv2.flip(example["image"], 1)}
