"""Which images a trained network is shown, and how they are prepared if not in the run's own way."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resnet_jax.data.classes import read_class_names
from resnet_jax.data.stats import check_normalization
from resnet_jax.data.unreadable import OnCorrupt
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, check_fields

if TYPE_CHECKING:
    from resnet_jax.runs.trained import TrainedRun


@dataclasses.dataclass(frozen=True)
class ImagePreparation:
    """How images are prepared, if not in the run's own way."""

    image_size: AtLeast1 | None = None
    """Side in pixels that images are resized to (default: the network's own size, or the source's)."""
    crop: Literal["none", "random_resized"] | None = None
    """random_resized: the central 0.875 of the image, as after training with such crops. none: the whole image
    (default: as in the run)."""
    mean: tuple[float, ...] = ()
    """Subtracted from x / 255, per channel (default: the run's mean, or that of the images)."""
    std: tuple[float, ...] = ()
    """Divides x / 255 - mean, per channel (default: the run's standard deviation, or that of the images)."""

    def __post_init__(self):
        """Check the values; raises UsageError."""
        check_fields(self, "data.")
        check_normalization(self.mean, self.std)


@dataclasses.dataclass(frozen=True)
class OwnImages(ImagePreparation):
    """The run's own images, possibly at another location, or a different preparation of them."""

    moved_to: str | None = None
    """The new location of the run's own images, if they have moved since training. The run's own split is used."""


@dataclasses.dataclass(frozen=True)
class OtherImages(OwnImages):
    """Images other than the run's own, or a different preparation of them."""

    source: str | None = None
    """The images to use: digits, folder:PATH, npz:PATH or tfds:NAME; depth also accepts random (default: the run's own
    images)."""

    def __post_init__(self):
        """Check the values, and that only one source is given; raises UsageError."""
        super().__post_init__()
        if self.source is not None and self.moved_to is not None:
            raise UsageError(
                "give data.moved_to, where the run's own images lie now, or data.source, other images; not both"
            )


@dataclasses.dataclass(frozen=True)
class EvaluatedImages(OtherImages):
    """Images to evaluate a network on."""

    on_corrupt: OnCorrupt | None = None
    """What to do about an image that cannot be read: stop, or skip it, in which case it is reported and left out of all
    metrics (default: as in the run)."""


def prepared(trained: TrainedRun, how: ImagePreparation, class_names: Path | None = None) -> TrainedRun:
    """Return the run with a different preparation of its images.

    Args:
        trained: the run.
        how: the preparation.
        class_names: file with the names of the outputs, one per line.

    Raises:
        UsageError: if the network cannot have these values.
        DataError: if the file cannot be read.
    """
    from resnet_jax.runs.trained import with_class_names, with_geometry, with_normalization

    if how.mean or how.std:
        trained = with_normalization(trained, how.mean, how.std)
    if how.image_size is not None or how.crop is not None:
        trained = with_geometry(trained, how.image_size, how.crop)
    if isinstance(how, EvaluatedImages) and how.on_corrupt is not None:
        data = dataclasses.replace(trained.config.data, on_corrupt=how.on_corrupt)
        trained = dataclasses.replace(trained, config=dataclasses.replace(trained.config, data=data))
    if class_names is not None:
        outputs, yes_or_no = trained.model.config.num_classes, trained.card.label_kind == "class"
        trained = with_class_names(trained, read_class_names(class_names, outputs, yes_or_no=yes_or_no))
    return trained
