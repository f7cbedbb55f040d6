"""The images for calibrating, training and testing a quantized network."""

from __future__ import annotations

import dataclasses

import numpy as np

from resnet_jax.data.in_memory import materialize
from resnet_jax.data.records import Records, Subset
from resnet_jax.data.rng import SHUFFLE, permutation
from resnet_jax.errors import UsageError
from resnet_jax.runs.chosen import Chosen, choose_images
from resnet_jax.runs.trained import TrainedRun, require_images


def training_images(trained: TrainedRun, source: str | None) -> Chosen:
    """Return the training images of a run, or those of a source for a run that has none.

    Args:
        trained: the run.
        source: None for the run's own.

    Raises:
        UsageError: the run is imported and there is no source.
        DataError: the images are missing.
        RunError: the run's own data has changed.
    """
    if source is None and not trained.was_trained_here:
        raise UsageError(
            f"{trained.path} was imported and has no training images: name some with train-source, such as "
            "folder:PATH, but not the test images, whose accuracy would then be too high"
        )
    return choose_images(trained, "train", source)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Images on which ranges are measured.

    Attributes:
        pixels: (N, H, W, C) as stored, resized for the network.
        said: a description of them.
    """

    pixels: np.ndarray
    said: str


def calibration_images(trained: TrainedRun, chosen: Chosen, count: int, seed: int = 0) -> Calibration:
    """Return calibration images, drawn without replacement and prepared as in evaluation, without augmentation.

    Args:
        trained: the run.
        chosen: the result of :func:`training_images`.
        count: number of images.
        seed: seed of the choice.

    Raises:
        UsageError: there are fewer images, or the network takes no images.
    """
    require_images(trained)
    total = len(chosen.records)
    if count > total:
        raise UsageError(f"calibration {count:,}: {chosen.what} has {total:,} images")
    some = Subset(chosen.records, permutation(total, seed, SHUFFLE)[:count])
    records = materialize(some, trained.geometry, training=False, limit_bytes=1 << 40)
    pixels = np.stack([records[index]["image"] for index in range(count)])
    where = "the run's own training images" if chosen.own else f"the {chosen.split} images of {chosen.place}"
    return Calibration(pixels, f"{count:,} of {total:,}, {where}")


def require_apart(trained: TrainedRun, training: Chosen, tested: Chosen) -> None:
    """Refuse to test a network on the images that it was calibrated on.

    Raises:
        UsageError: they overlap; the message names them.
    """
    if not training.own and not tested.own and (training.place, training.split) == (tested.place, tested.split):
        raise UsageError(
            f"train-source and test-source are the same {tested.split} images of {tested.place}: {trained.path} "
            "would be measured on what it was calibrated on"
        )


def trainable(trained: TrainedRun, records: Records) -> Records:
    """Return training images with the geometry of training, in memory if they fit."""
    return materialize(records, trained.geometry, training=True)
