"""The geometry of one image on the host: uint8 in, uint8 out, randomness from a generator passed in.

`random_resized_box` is the crop of C. Szegedy et al., Going Deeper with Convolutions (CVPR 2015, section 6)
with the numbers of fb.resnet.torch and torchvision's RandomResizedCrop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from resnet_jax.errors import UsageError

EVAL_CENTRE = 0.875
"""Part of the shorter side that evaluation sees after `random_resized` training: 224 of 256."""
SCALE, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10


@dataclass(frozen=True)
class Geometry:
    """How an image of any size becomes one of the network's size.

    =================  ======================================  ==============================================
    ``train``          training                                evaluation
    =================  ======================================  ==============================================
    "none"             as in evaluation                        shorter side to S, centre crop S x S
    "random_resized"   random part of the image, to S x S      shorter side to round(S / 0.875), centre crop
    =================  ======================================  ==============================================

    Evaluation leaves an image that is S x S already untouched, pixel for pixel. The 0.875 margin goes with
    random resized training only: it makes objects appear as large as training showed them, and on small
    images (CIFAR, digits) it would cut away content for nothing.

    Attributes:
        image_size: S, pixels; None to keep the stored size, which must then be the same for all images.
        train: what training does.

    Raises:
        UsageError: a size below 1, an unknown ``train``, or random crops without a size.
    """

    image_size: int | None = None
    train: Literal["none", "random_resized"] = "none"

    def __post_init__(self) -> None:
        if self.train not in ("none", "random_resized"):
            raise UsageError(f"geometry {self.train!r} is not known; use 'none' or 'random_resized'")
        if self.image_size is None and self.train == "random_resized":
            raise UsageError("random resized crops need image_size")
        if self.image_size is not None and self.image_size < 1:
            raise UsageError(f"image_size {self.image_size} must be at least 1")

    @property
    def random(self) -> bool:
        """Whether training draws random numbers."""
        return self.train == "random_resized"

    @property
    def shorter_side(self) -> int:
        """Pixels that the shorter side of an image is brought to in evaluation, before the centre is cut out."""
        size = self.image_size or 0
        return round(size / EVAL_CENTRE) if self.random else size

    def keeps(self, shape: tuple[int, ...], *, training: bool) -> bool:
        """Return whether an image of this shape (height, width, ...) passes unchanged."""
        if training and self.random:
            return False
        return self.image_size is None or tuple(shape[:2]) == (self.image_size, self.image_size)

    def train_image(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Apply the training geometry to uint8 (height, width, channels)."""
        if self.image_size is None or not self.random:
            return self.eval_image(image)
        top, left, height, width = random_resized_box(image.shape[0], image.shape[1], rng)
        return resize(image[top : top + height, left : left + width], self.image_size, self.image_size)

    def eval_image(self, image: np.ndarray) -> np.ndarray:
        """Apply the evaluation geometry to uint8 (height, width, channels); the same every time."""
        if self.image_size is None or self.keeps(image.shape, training=False):
            return image
        size, shorter = self.image_size, self.shorter_side
        height, width = (round(side * shorter / min(image.shape[:2])) for side in image.shape[:2])
        return centre_crop(resize(image, height, width), size)


AS_STORED = Geometry()
"""No geometry at all, the default: images are stored in the size the network gets."""


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 (h, w, c): pixel areas averaged when both sides shrink (no aliasing), else bilinear."""
    import cv2

    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(height, width, image.shape[2])


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Return the middle size x size of (h, w, c), half a pixel up and left where a side is odd."""
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def random_resized_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a box of random area and aspect ratio inside an image.

    Area is uniform in 0.08 .. 1 of the image's, the ratio width / height log-uniform in 3/4 .. 4/3; a box
    that does not fit is drawn again, ten times, then the largest centred box of an allowed ratio is taken.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        rng: only ``rng.random()`` is drawn from it.

    Returns:
        (top, left, height, width) of the box, pixels; never empty, never outside.
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for _ in range(TRIES):
        area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * rng.random())
        ratio = math.exp(low + (high - low) * rng.random())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.random() * (height - h + 1)), int(rng.random() * (width - w + 1)), h, w
    h = min(height, max(1, round(width / RATIO[0])))
    w = min(width, max(1, round(height * RATIO[1])))
    return (height - h) // 2, (width - w) // 2, h, w
