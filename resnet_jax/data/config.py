"""Configuration of the data floor: where the images come from, how they are split, and what is done to them."""

from __future__ import annotations

import dataclasses
from typing import Literal

from resnet_jax.fields import AtLeast0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the images come from, how they are split, and what is done to them."""

    source: str = "digits"
    """digits, folder:PATH, npz:PATH, manifest:PATH (CSV or JSONL), tfds:NAME or a registered KIND:LOCATION."""
    moved_to: str | None = None
    """Where the images of a run under way lie now, if no longer at data.source; they must be the same ones."""
    val_fraction: float = 0.1
    """Share of the training images held out for validation, by class and always the same ones."""
    test_fraction: float = 0.2
    """Share held out for the final test where the source has no test split of its own."""
    split_seed: int = 0
    """Which images are held out; not the seed of the run, so that seeds can be compared."""
    image_size: int | None = None
    """Side in pixels the images are brought to; None keeps theirs, which must then be equal."""
    crop: str = "none"
    """Geometry in training: none, or random_resized (ImageNet's random crop of random scale)."""
    pad: int = 0
    """Zero pixels added on each side before a random crop back to size (CIFAR: 4)."""
    flip: bool = False
    """Mirror training images left-right with probability 1/2."""
    cutout: int = 0
    """Side in pixels of a square of each training image that is set to the mean (CIFAR-10: 16); 0 for none."""
    mixup: float = 0.0
    """Alpha of mixup, which averages two images and their labels (CIFAR: 1, ImageNet: 0.2); 0 for none."""
    cutmix: float = 0.0
    """Alpha of cutmix, which puts a box of one image into another (1); 0 for none."""
    mix_probability: float = 1.0
    """Chance of a training image to be mixed; with both mixup and cutmix it gets one of them, each as often."""
    mean: tuple[float, ...] = ()
    """Subtracted per channel, from x / 255 if the images are uint8, else from x; empty: that of the training images."""
    std: tuple[float, ...] = ()
    """Divides what is left, per channel; empty: that of the training images."""
    pixels: Literal["uint8", "stored"] = "uint8"
    """What image files become: uint8, or stored: what they hold (16 bits, floats, four bands) without loss."""
    threads: AtLeast0 = 2
    """Threads that decode and assemble batches."""

    @property
    def place(self) -> str:
        """Where the images are now."""
        return self.source if self.moved_to is None else self.moved_to
