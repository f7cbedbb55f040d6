"""The geometry of one example on the host, with randomness from a given generator; masks and boxes move with the image.

`random_resized_box` is the crop of C. Szegedy et al., Going Deeper with Convolutions (CVPR 2015, section 6) with the
constants of fb.resnet.torch and torchvision's RandomResizedCrop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from resnet_jax.data.boxes import LEAST_SIDE, WHOLE, without_empty
from resnet_jax.data.example import Example, Spec
from resnet_jax.data.resample import Filter, resample
from resnet_jax.data.rng import CROP, HOST, generator
from resnet_jax.errors import UsageError

EVAL_CENTRE = 0.875
"""Fraction of the shorter side that evaluation sees after `random_resized` training: 224 of 256."""
SCALE, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
Interpolation = Literal["area", Filter]
"""``area``: :func:`resize`; ``bilinear`` and ``bicubic``: as torchvision resizes and center-crops images."""


class HostTransform(Protocol):
    """A transform of one example on the host, in NumPy, before batching. Frozen and hashable."""

    def apply(self, example: Example, rng: np.random.Generator, spec: Spec, /) -> Example:
        """Return the transformed example, with the same shapes and dtypes; the given one is not modified.

        Args:
            example: one example.
            rng: random generator of this transform, example and epoch.
            spec: the meaning of its fields.
        """
        ...


@dataclass(frozen=True)
class Geometry:
    """How an image of any size is converted to the network's size.

    =================  ======================================  ==============================================
    ``train``          training                                evaluation
    =================  ======================================  ==============================================
    "none"             as in evaluation                        shorter side to S, centre crop S x S
    "random_resized"   random part of the image, to S x S      shorter side to round(S / 0.875), centre crop
    =================  ======================================  ==============================================

    Evaluation leaves an S x S image untouched, pixel for pixel. The 0.875 margin is used only with random resized
    training: it makes objects appear as large as in training, and on small images (CIFAR, digits) it would discard
    content for nothing.

    With ``resize``, both bring the whole image to that height and width, stretched if its aspect ratio differs. With
    ``eval_side``, evaluation resizes the shorter side to that, and with ``interpolation`` it resizes and crops as for
    published weights: Pillow's filter, the longer side rounded down, the crop position rounded to even.

    Attributes:
        image_size: S in pixels; None to keep the stored size, which must then be the same for all images.
        train: what training does.
        before: host transforms of training, in order, on the stored example.
        after: host transforms of training, in order, on the resized example.
        resize: height and width instead of ``image_size``; nothing is cropped.
        eval_side: pixels that evaluation resizes the shorter side to; None: as in the table.
        interpolation: how evaluation resizes.

    Raises:
        UsageError: for a size below 1, an unknown ``train``, random crops without a size, two sizes, or a crop larger
            than the image.
    """

    image_size: int | None = None
    train: Literal["none", "random_resized"] = "none"
    before: tuple[HostTransform, ...] = ()
    after: tuple[HostTransform, ...] = ()
    resize: tuple[int, int] | None = None
    eval_side: int | None = None
    interpolation: Interpolation = "area"

    def __post_init__(self) -> None:
        if self.train not in ("none", "random_resized"):
            raise UsageError(f"geometry {self.train!r} is not known; use 'none' or 'random_resized'")
        if self.image_size is None and self.train == "random_resized":
            raise UsageError("random resized crops need image_size")
        if self.image_size is not None and self.image_size < 1:
            raise UsageError(f"image_size {self.image_size} must be at least 1")
        if self.resize is not None and self.image_size is not None:
            raise UsageError(f"image_size {self.image_size} and resize {self.resize} are both a size: give one")
        if self.eval_side is not None and (self.image_size is None or self.eval_side < self.image_size):
            raise UsageError(
                f"the shorter side of {self.eval_side} pixels is what image_size is cut from, and image_size is "
                f"{self.image_size}"
            )

    @property
    def random(self) -> bool:
        """Whether training draws random numbers."""
        return self.train == "random_resized" or bool(self.before or self.after)

    @property
    def shorter_side(self) -> int:
        """Pixels that evaluation resizes the shorter side of an image to, before the center is cropped."""
        size = self.image_size or 0
        if self.eval_side is not None:
            return self.eval_side
        return round(size / EVAL_CENTRE) if self.train == "random_resized" else size

    def keeps(self, shape: tuple[int, ...], *, training: bool) -> bool:
        """Return whether an image of this shape (height, width, ...) passes unchanged."""
        if training and self.random:
            return False
        if self.resize is not None:
            return tuple(shape[:2]) == self.resize
        return self.image_size is None or tuple(shape[:2]) == (self.image_size, self.image_size)

    def train_example(self, example: Example, spec: Spec, address: tuple[int, int, int]) -> Example:
        """Apply the training geometry.

        Args:
            example: the example as stored.
            spec: the meaning of its fields.
            address: seed, epoch and index, on which alone the random part depends.
        """
        seed, epoch, index = address
        for place, transform in enumerate(self.before):
            example = transform.apply(example, generator(seed, HOST + place, epoch, index), spec)
        if self.train == "random_resized":
            example = self._random_part(example, spec, generator(seed, CROP, epoch, index))
        else:
            example = self._fixed(example, spec, LEAST_SIDE)
        for place, transform in enumerate(self.after, len(self.before)):
            example = transform.apply(example, generator(seed, HOST + place, epoch, index), spec)
        return example

    def _random_part(self, example: Example, spec: Spec, rng: np.random.Generator) -> Example:
        assert self.image_size is not None
        box = random_resized_box(*_sides(example), rng)
        return _warped(example, spec, box, (self.image_size, self.image_size), self.image_size)

    def train_image(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Apply the training resize and crop to a single image (height, width, channels)."""
        if self.train != "random_resized":
            return self.eval_image(image)
        return self._random_part({"image": image}, {}, rng)["image"]

    def eval_example(self, example: Example, spec: Spec) -> Example:
        """Apply the evaluation geometry; the same every time.

        If the whole image is shown, every ground-truth box counts, however small it becomes.
        """
        return self._fixed(example, spec, WHOLE)

    def _fixed(self, example: Example, spec: Spec, least_side: float) -> Example:
        if self.keeps(example["image"].shape, training=False):
            return example
        sides = _sides(example)
        if self.resize is not None:
            return _warped(
                example, spec, (0, 0, *sides), self.resize, interpolation=self.interpolation, least_side=least_side
            )
        to, cut = self._centre_of(sides)
        return _warped(example, spec, (0, 0, *sides), to, self.image_size, cut, self.interpolation)

    def _centre_of(self, sides: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the height and width that evaluation resizes an image to, and what it crops at top and left."""
        assert self.image_size is not None
        shorter = self.shorter_side
        if self.interpolation == "area":
            height, width = (round(side * shorter / min(sides)) for side in sides)
            return (height, width), ((height - self.image_size) // 2, (width - self.image_size) // 2)
        height, width = (int(shorter * side / min(sides)) for side in sides)
        return (height, width), (round((height - self.image_size) / 2), round((width - self.image_size) / 2))

    def boxes_as_stored(self, boxes: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
        """Return boxes (n, 4) found in the output of :meth:`eval_image` as boxes of the stored image.

        Args:
            boxes: top, left, bottom, right in pixels.
            sides: height and width of the stored image, at whose border boxes are clipped.
        """
        if self.resize is not None:
            scale, shift = np.divide(sides, self.resize), np.zeros(2)
        elif self.image_size is None or self.keeps(sides, training=False):
            scale, shift = np.ones(2), np.zeros(2)
        else:
            to, cut = self._centre_of(sides)
            scale, shift = np.divide(sides, to), np.array(cut)
        found = (boxes.astype(np.float64) + np.tile(shift, 2)) * np.tile(scale, 2)
        return np.clip(found, 0, [*sides, *sides])

    def eval_image(self, image: np.ndarray) -> np.ndarray:
        """Apply the evaluation geometry to a single image (height, width, channels)."""
        return self.eval_example({"image": image}, {})["image"]


AS_STORED = Geometry()
"""No geometry, the default: images are stored in the network's size."""


def _sides(example: Example) -> tuple[int, int]:
    shape = example["image"].shape
    if len(shape) != 3:
        raise UsageError(
            f"image_size brings images (height, width, channels) to a size; these inputs are {shape}: leave it out"
        )
    return shape[0], shape[1]


def _warped(
    example: Example,
    spec: Spec,
    box: tuple[int, int, int, int],
    to: tuple[int, int],
    size: int | None = None,
    cut: tuple[int, int] | None = None,
    interpolation: Interpolation = "area",
    least_side: float = LEAST_SIDE,
) -> Example:
    """Cut out a box, resize it to a height and width, and keep ``size`` x ``size`` of that from ``cut`` on, or all.

    Masks are cut alike and resized to the nearest pixel; boxes are moved and clipped at the border, and those of which
    nothing is left lose their label.
    """
    top, left, height, width = box
    kept = to if size is None else (size, size)
    down, right = ((side - own) // 2 for side, own in zip(to, kept, strict=True)) if cut is None else cut

    def moved(name: str, values: np.ndarray) -> np.ndarray:
        meaning = "image" if name == "image" else spec[name].meaning if name in spec else "array"
        if meaning == "boxes":
            scale = np.array([to[0] / height, to[1] / width] * 2)
            corners = (values - np.array([top, left] * 2)) * scale - np.array([down, right] * 2)
            return np.clip(corners, 0, [*kept, *kept]).astype(values.dtype)
        if meaning not in ("image", "mask"):
            return values
        flat = values.ndim == 2
        part = (values[..., None] if flat else values)[top : top + height, left : left + width]
        if meaning == "mask" or interpolation == "area":
            part = resize(part, *to, nearest=meaning == "mask")
        else:
            part = resample(part, *to, interpolation)
        part = part[down : down + kept[0], right : right + kept[1]]
        return part[..., 0] if flat else part

    return without_empty({name: moved(name, values) for name, values in example.items()}, spec, least_side)


def resize(image: np.ndarray, height: int, width: int, *, nearest: bool = False) -> np.ndarray:
    """Resize (h, w, c): area averaging if both sides shrink (no aliasing), otherwise bilinear; or the nearest pixel.

    Raises:
        UsageError: for a dtype that OpenCV does not resize.
    """
    import cv2

    if image.shape[:2] == (height, width):
        return image
    if nearest:
        rows = (np.arange(height) * 2 + 1) * image.shape[0] // (2 * height)
        columns = (np.arange(width) * 2 + 1) * image.shape[1] // (2 * width)
        return image[rows[:, None], columns[None]]
    if image.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        raise UsageError(f"images of {image.dtype} are not resized: uint8, uint16, int16 or float32 are")
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(height, width, image.shape[2])


def random_resized_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a box of random area and aspect ratio inside an image.

    The area is uniform in 0.08 .. 1 of the image's, the ratio width / height log-uniform in 3/4 .. 4/3. A box that does
    not fit is drawn again, up to ten times; then the largest centered box with an allowed ratio is used.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        rng: only ``rng.random()`` is drawn from it.

    Returns:
        (top, left, height, width) of the box in pixels; never empty, never outside.
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
