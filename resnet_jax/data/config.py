"""Configuration of the data floor: where the images come from, how they are split, and what is done to them."""

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
    """Where the images come from, how they are split, and what is done to them."""

    source: Annotated[str, Listing(source_forms)] = "digits"
    """Where the examples come from, KIND:LOCATION; the kinds:"""
    moved_to: Annotated[str, SAME_RESULT] | None = None
    """Where the images of a run under way lie now, if no longer at data.source; they must be the same ones."""
    val_fraction: BelowOne = 0.1
    """Share of the training images held out for validation, by class and always the same ones."""
    test_fraction: Annotated[float, Interval(gt=0.0, lt=1.0)] = 0.2
    """Share held out for the final test where the source has no test split of its own."""
    split_seed: int = 0
    """Which images are held out; not the seed of the run, so that seeds can be compared."""
    split: Method = "stratified"
    """How images are held out: stratified, with exact shares of every class; or hash, by a hash of each image's name,
    so that adding or removing images leaves all others where they are, and sizes are about right."""
    group_by: str | None = None
    """Keep on one side all images of a patient, speaker or scene: a regular expression with one group that finds it in
    the image's path, such as "^([^_]+)_", or group for what the source knows (the column group of a manifest)."""
    fold: str | None = None
    """Cross-validation: i/k, such as 1/5 to 5/5: validate on fold i of k of the training images, in place of
    val_fraction; the test stays the same."""
    subset: Annotated[float, Gt(0.0)] | None = None
    """Train on a part of the training images, by class: below 1 a share, such as 0.1, else a number a class; a smaller
    part is in a larger one. Validation and test stay the same."""
    balance: Balance = "none"
    """How training images are drawn: none, every image once an epoch; or classes, all classes equally often."""
    repeats: AtLeast1 = 1
    """How often an image is in a training batch, each time augmented anew; an epoch keeps its number of updates."""
    image_size: AtLeast1 | None = None
    """Side in pixels the images are brought to; None keeps theirs, which must then be equal."""
    downscale: AtLeast1 = 1
    """The network sees images at 1/downscale of their sides (means of pixels), in evaluation, and in training unless a
    transform such as random_scale_crop brings them to a size of its own; classes of pixels keep their size, at which
    the scores are."""
    resize: tuple[AtLeast1, AtLeast1] | None = None
    """Height and width in pixels that images are brought to in place of image_size: nothing is cut off, and what is in
    another ratio is stretched. For boxes and masks."""
    eval_side: AtLeast1 | None = None
    """Pixels that evaluation brings the shorter side of an image to, before it cuts the centre of image_size out; None:
    image_size, or image_size / 0.875 after random resized crops."""
    interpolation: Interpolation = "area"
    """How evaluation resizes: area (means of pixels; bilinear where an image grows), or bilinear or bicubic as
    torchvision does on Pillow images, which published weights were measured with."""
    sizes: tuple[str, ...] = ()
    """Progressive resolution: sides that training images are brought to, each from a point of the run on, such as
    "128@0%" "160@40%" "224@80%"; evaluation is at data.image_size, or at the images' own."""
    augment: Annotated[tuple[str, ...], Listing(transform_names)] = ()
    """What is done to training images, in this order, such as "random_crop(pad=4)" flip "cutout(16)" "mixup(0.2)"; more
    arguments of each are in docs/data.md. Known."""
    mean: tuple[float, ...] = ()
    """Subtracted per channel, from x / 255 if the images are uint8, else from x; empty: that of the training images."""
    std: tuple[float, ...] = ()
    """Divides what is left, per channel; empty: that of the training images."""
    pixels: Pixels = "uint8"
    """What image files become: uint8, or stored: what they hold (16 bits, floats, four bands) without loss."""
    shown_bands: Annotated[tuple[AtLeast0, ...], SAME_RESULT] = ()
    """Of images of other channels than grey or red, green, blue: which of them, from 0, pictures show, three as red,
    green and blue or one as grey, such as 3 2 1; empty: the first three."""
    orientation: Orientation = "stored"
    """stored: pixels as they lie in the image files; exif: turned upright, as the tag of a camera says."""
    class_pattern: str | None = None
    """Where the class is in the names of files (folder:PATH, wav:PATH): a regular expression with one group, such as
    "^([a-z]+)_"; it is looked for in the path below the folder, or below train, val and test in it."""
    class_list: str | None = None
    """A file of classes, one a line, in label order: the folder, and what it is called (of mnist: only that)."""
    signal_length: AtLeast1 | None = None
    """Samples that series and sounds of different lengths are brought to: zeros are added at the end, what is longer
    loses its end; None: the length of the longest."""
    void_value: AtLeast0 | None = None
    """Value of masks that stands for no class, besides 255; the other values are the classes, in order."""
    threads: Annotated[AtLeast0, SAME_RESULT] = 2
    """Threads that decode and assemble batches; with data.workers, in each process."""
    workers: Annotated[AtLeast0, SAME_RESULT] = 0
    """Processes that do so in place of this one, for sources and transforms that hold Python's lock."""
    on_corrupt: Annotated[OnCorrupt, SAME_RESULT] = "stop"
    """What is done about an example that cannot be read: stop at it, or skip it: it is counted, listed in corrupt.jsonl
    and reported; in training the next of the epoch takes its place, in evaluation it counts nowhere."""
    max_corrupt: Annotated[Share, SAME_RESULT] = SHARE
    """With on_corrupt skip: share of a split that may be skipped; more stop the run."""

    def __post_init__(self) -> None:
        """Refuse what no run can have, and write every transform in its one form."""
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
        """Return what counts the examples of a split that cannot be read; None where one stops the run."""
        return None if self.on_corrupt == "stop" else Unreadable(split, total, self.max_corrupt)

    def division(self) -> Division:
        """Return how the source is divided."""
        return Division(
            self.val_fraction, self.test_fraction, self.split_seed, self.split, self.group_by, self.fold, self.subset
        )

    @property
    def sampling(self) -> Sampling:
        """How training examples are drawn."""
        return Sampling(self.balance, self.repeats)

    @property
    def crop(self) -> Literal["none", "random_resized"]:
        """Geometry in training: none, or random_resized."""
        return "random_resized" if divide(self.augment).random_resized else "none"

    @property
    def place(self) -> str:
        """Where the images are now."""
        return self.source if self.moved_to is None else self.moved_to
