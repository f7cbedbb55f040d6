"""``digits_segmentation``: scenes composed of scikit-learn's handwritten digits, with the class of every pixel.

Up to five real digits (8x8, enlarged two to three times) that do not overlap, on a canvas of 48x48 pixels with a slowly
changing gray and noise. Pixels of a digit's strokes have its class, those of its faint edge none (255), and the rest is
background: 11 classes. Training, validation and test scenes are composed of disjoint digits, always the same.
"""

from __future__ import annotations

import numpy as np

from resnet_jax.data.digits import digit_records
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import ArrayRecords, Dataset, Source
from resnet_jax.data.registry import register_source
from resnet_jax.data.transform import resize

SIDE = 48
#: Split -> scenes.
SCENES = {"train": 640, "val": 120, "test": 120}
#: Split -> digits out of every ten.
DIGITS = {"train": range(8), "val": range(8, 9), "test": range(9, 10)}
NAMES = ("background", *"0123456789")
VOID = 255
#: Gray level from which strokes are a digit, and up to which they are background, of 255.
STROKE, EDGE = 110, 40


@register_source("digits_segmentation", form="digits_segmentation")
def load_scenes(_location: str, reading: Reading, /) -> Dataset:
    """Compose the scenes; gray, or with the requested number of channels."""
    digits = digit_records(reading.channels)
    splits = {}
    for number, (split, count) in enumerate(SCENES.items()):
        own = np.flatnonzero(np.isin(np.arange(len(digits)) % 10, DIGITS[split]))
        splits[split] = _scenes(digits, own, count, np.random.default_rng(number), split)
    note = "composed: scenes of scikit-learn's handwritten digits; each split has digits of its own"
    return Dataset("digits_segmentation", splits, NAMES, (note,), kind="segmentation")


def _scenes(digits: Source, own: np.ndarray, count: int, rng: np.random.Generator, split: str) -> ArrayRecords:
    channels = digits[0]["image"].shape[-1]
    images = np.empty((count, SIDE, SIDE, channels), np.uint8)
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    for image, mask in zip(images, masks, strict=True):
        ground = resize(rng.uniform(0, 90, (3, 3, 1)).astype(np.float32), SIDE, SIDE)
        scene = np.repeat(ground, channels, -1) + rng.normal(0, 12, (SIDE, SIDE, 1))
        free = np.ones((SIDE, SIDE), bool)
        for index in rng.choice(own, rng.integers(3, 6), replace=False):
            side = int(rng.integers(16, 25))
            pixels = resize(digits[int(index)]["image"], side, side).astype(np.float32)
            top, left = _free_place(free, side, rng)
            if top < 0:
                continue
            part = (slice(top, top + side), slice(left, left + side))
            free[part] = False
            scene[part] = np.maximum(scene[part], pixels)
            grey = pixels.mean(-1)
            mask[part] = np.where(grey >= STROKE, digits.labels[index] + 1, np.where(grey > EDGE, VOID, 0))
        image[...] = np.clip(np.rint(scene), 0, 255)
    return ArrayRecords(
        images,
        np.zeros(count, np.int32),
        name=f"digits_segmentation, {split}",
        fields={"segmentation": masks},
        meanings={"segmentation": "mask"},
    )


def _free_place(free: np.ndarray, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return where a square of this side fits, after up to thirty tries; (-1, -1) if nowhere."""
    for _ in range(30):
        top, left = (int(place) for place in rng.integers(0, SIDE - side + 1, 2))
        if free[top : top + side, left : left + side].all():
            return top, left
    return -1, -1
