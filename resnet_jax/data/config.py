"""Configuration of the data: where the images come from, how they are split, and how they are transformed."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from annotated_types import Gt, Interval

from resnet_jax.data.division import Division, Method
from resnet_jax.data.order import Balance, Sampling
from resnet_jax.data.reading import Orientation, Pixels, Reading
from resnet_jax.data.registry import source_forms
from resnet_jax.data.sizes import parse_sizes
from resnet_jax.data.stats import check_normalization
from resnet_jax.data.transform import Interpolation
from resnet_jax.data.transforms import canonical, divide, transform_names
from resnet_jax.data.unreadable import SHARE, OnCorrupt, Unreadable
from resnet_jax.errors import UsageError
from resnet_jax.fields import SAME_RESULT, AtLeast0, AtLeast1, BelowOne, Listing, Share, check_fields


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the images come from, how they are split, and how they are transformed."""

    source: Annotated[str, Listing(source_forms)] = "digits"
    """The data source, as KIND:LOCATION. Kinds."""
    moved_to: Annotated[str, SAME_RESULT] | None = None
    """The new location of the images of an existing run, if they are no longer at data.source. They must be the same
    images."""
    val_fraction: BelowOne = 0.1
    """Fraction of the training images held out for validation, stratified by class and always the same images."""
    test_fraction: Annotated[float, Interval(gt=0.0, lt=1.0)] = 0.2
    """Fraction held out for the final test if the source has no test split of its own."""
    split_seed: int = 0
    """Seed of the held-out split. It is separate from the run's seed, so that runs with different seeds can be
    compared."""
    split: Method = "stratified"
    """How images are held out. stratified: exact fractions of every class. hash: by a hash of each image's name, so
    that adding or removing images does not move the others; the sizes are then approximate."""
    group_by: str | None = None
    """Keep all images of a patient, speaker or scene on the same side of a split: a regular expression with one group
    that matches the image's path, such as "^([^_]+)_", or group for what the source knows (the column group of a
    manifest)."""
    fold: str | None = None
    """Cross-validation, as i/k, such as 1/5 to 5/5: validate on fold i of k of the training images instead of
    val_fraction. The test split stays the same."""
    subset: Annotated[float, Gt(0.0)] | None = None
    """Train on a part of the training images, drawn by class: a fraction if below 1, such as 0.1, or else a number of
    images per class. Smaller subsets are contained in larger ones; validation and test stay the same."""
    balance: Balance = "none"
    """How training images are sampled. none: every image once per epoch. classes: all classes equally often."""
    repeats: AtLeast1 = 1
    """How often an image appears in a training batch, each time with a new augmentation (repeated augmentation). The
    number of updates per epoch does not change."""
    image_size: AtLeast1 | None = None
    """Side in pixels that images are resized to. None keeps their sizes, which must then all be equal."""
    downscale: AtLeast1 = 1
    """Show the network images at 1/downscale of their sides (pixel averages), in evaluation, and in training unless a
    transform such as random_scale_crop sets the size. Segmentation masks keep their full size, at which metrics are
    computed."""
    resize: tuple[AtLeast1, AtLeast1] | None = None
    """Height and width in pixels that images are resized to, instead of image_size. Nothing is cropped; images of
    another aspect ratio are stretched. For boxes and masks."""
    eval_side: AtLeast1 | None = None
    """Pixels that the shorter side of an image is resized to in evaluation, before the center is cropped to image_size.
    None: image_size, or image_size / 0.875 after random resized crops."""
    interpolation: Interpolation = "area"
    """How evaluation resizes images: area (pixel averages; bilinear if an image grows), or bilinear or bicubic as
    torchvision does on Pillow images, which is how published weights were evaluated."""
    sizes: tuple[str, ...] = ()
    """Progressive resizing: sides of the training images, each from a given point of the run on, such as "128@0%"
    "160@40%" "224@80%". Evaluation uses data.image_size, or the images' own size."""
    augment: Annotated[tuple[str, ...], Listing(transform_names)] = ()
    """Transforms of the training images, in this order, such as "random_crop(pad=4)" flip "cutout(16)" "mixup(0.2)".
    docs/data.md lists all their arguments. Known."""
    mean: tuple[float, ...] = ()
    """Subtracted per channel, from x / 255 for uint8 images and from x otherwise. Empty: the mean of the training
    images."""
    std: tuple[float, ...] = ()
    """Divisor per channel after the mean is subtracted. Empty: the standard deviation of the training images."""
    pixels: Pixels = "uint8"
    """What image files are decoded to: uint8, or stored for what they contain (16 bits, floats, four bands) without
    loss."""
    shown_bands: Annotated[tuple[AtLeast0, ...], SAME_RESULT] = ()
    """For images with channels other than gray or RGB: the channels to show in figures, from 0, either three as red,
    green and blue or one as gray, such as 3 2 1. Empty: the first three."""
    orientation: Orientation = "stored"
    """Orientation of image files. stored: pixels as stored. exif: rotated upright according to the camera's EXIF
    tag."""
    class_pattern: str | None = None
    """Find the class in file names (folder:PATH, wav:PATH): a regular expression with one group, such as "^([a-z]+)_".
    It is matched against the path below the folder, or below its subfolders train, val and test."""
    class_list: str | None = None
    """A file of classes, one per line, in label order: the folder, and optionally its class name (for mnist, the name
    only)."""
    signal_length: AtLeast1 | None = None
    """Number of samples that series and sounds of different lengths are brought to: shorter ones are padded with zeros
    at the end, longer ones are cut off there. None: the longest length."""
    void_value: AtLeast0 | None = None
    """Mask value that stands for no class, in addition to 255. The other values are the classes, in order."""
    threads: Annotated[AtLeast0, SAME_RESULT] = 2
    """Threads that decode images and assemble batches, in each process with data.workers."""
    workers: Annotated[AtLeast0, SAME_RESULT] = 0
    """Worker processes that make batches instead of the main process, for sources and transforms that hold the GIL."""
    on_corrupt: Annotated[OnCorrupt, SAME_RESULT] = "stop"
    """What to do about an example that cannot be read: stop, or skip it. Skipped examples are counted, listed in
    corrupt.jsonl and reported; in training, the next example of the epoch takes the place, and in evaluation they are
    left out."""
    max_corrupt: Annotated[Share, SAME_RESULT] = SHARE
    """With on_corrupt skip: the largest fraction of a split that may be skipped before the run stops."""

    def __post_init__(self) -> None:
        """Reject impossible values, and normalize the spelling of every transform."""
        check_fields(self, "data.")
        self.division()  # which checks what it is made of
        check_normalization(self.mean, self.std, dtype=None)
        parse_sizes(self.sizes)
        if len(self.shown_bands) not in (0, 1, 3):
            raise UsageError(f"data.shown_bands names three channels, or one, got {self.shown_bands}")
        object.__setattr__(self, "augment", canonical(self.augment))
        if self.resize is not None:
            others = {
                "image_size": self.image_size,
                "sizes": self.sizes,
                "augment random_resized_crop": self.crop != "none",
                "eval_side": self.eval_side,
            }
            for name, value in others.items():
                if value:
                    raise UsageError(f"data.resize and data.{name} both say what size images are brought to: give one")
        if self.eval_side is not None and (self.image_size is None or self.eval_side < self.image_size):
            raise UsageError(
                f"data.eval_side {self.eval_side} is what data.image_size is cut from, and that is {self.image_size}"
            )
        if self.repeats > 1 and not self.augment:
            raise UsageError(
                f"data.repeats {self.repeats} has an image in a batch so often, augmented anew each time, and "
                "data.augment is empty: name transforms, or set data.repeats 1"
            )

    def reading(self, channels: int | None = None, least_classes: int = 2) -> Reading:
        """Return how the source is read."""
        return Reading(
            channels,
            least_classes,
            self.pixels,
            self.orientation,
            self.class_pattern,
            self.class_list,
            signal_length=self.signal_length,
            void_value=self.void_value,
            skip_unreadable=self.on_corrupt == "skip",
        )

    def unreadable(self, split: str, total: int) -> Unreadable | None:
        """Return a counter for the unreadable examples of a split, or None if such an example stops the run."""
        return None if self.on_corrupt == "stop" else Unreadable(split, total, self.max_corrupt)

    def division(self) -> Division:
        """Return how the source is split."""
        return Division(
            self.val_fraction, self.test_fraction, self.split_seed, self.split, self.group_by, self.fold, self.subset
        )

    @property
    def sampling(self) -> Sampling:
        """How training examples are sampled."""
        return Sampling(self.balance, self.repeats)

    @property
    def crop(self) -> Literal["none", "random_resized"]:
        """Training crop: none, or random_resized."""
        return "random_resized" if divide(self.augment).random_resized else "none"

    @property
    def place(self) -> str:
        """The current location of the images."""
        return self.source if self.moved_to is None else self.moved_to
