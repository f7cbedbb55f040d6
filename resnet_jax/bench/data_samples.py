"""Default images for measuring pipelines: with the size and format of a known data set, always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np

#: Kind -> height, width, suffix, number of images.
SAMPLES = {"imagenet": (375, 500, ".jpg", 64), "cifar": (32, 32, ".jpg", 2000), "mnist": (28, 28, ".png", 2000)}
QUALITY = 92
"""JPEG quality: a photograph of 500 x 375 is then about 100 kB, like those of ImageNet."""
CLASSES = 10


def write_samples(kind: str, folder: Path) -> Path:
    """Write images into ``folder/CLASS``: waves of many lengths, which compress about as well as photographs.

    Args:
        kind: a key of :data:`SAMPLES`.
        folder: the folder to create.

    Returns:
        The folder.
    """
    import cv2

    height, width, suffix, count = SAMPLES[kind]
    rng = np.random.default_rng(0)
    for number in range(count):
        image = np.zeros((height, width, 3), np.float32)
        for side in (3, 8, 20, 60, 160):
            coarse = rng.normal(0, 60 / side**0.3, (min(side, height), min(side, width), 3)).astype(np.float32)
            image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(image + 127, 0, 255).astype(np.uint8)
        if kind == "mnist":
            pixels = np.where(pixels[..., :1] > 150, pixels[..., :1], 0).astype(np.uint8)
        path = folder / str(number % CLASSES) / f"{number:05}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if suffix == ".jpg" else []
        path.write_bytes(cv2.imencode(suffix, pixels, options)[1].tobytes())
    return folder
