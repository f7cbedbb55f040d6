"""How images are prepared for a trained network: what ``eval`` and ``predict`` share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """How images are prepared, where that is not the run's own way."""

    image_size: int | None = None
    """Side in pixels the images are brought to (default: the network's own)."""
    crop: str | None = None
    """none, or random_resized: the centre 0.875 of the image, as after such training (default: the run's)."""
    mean: tuple[float, ...] = ()
    """Subtracted from x / 255, per channel (default: the run's)."""
    std: tuple[float, ...] = ()
    """Divides x / 255 - mean, per channel (default: the run's)."""


def prepared(trained: Any, data: ImageOptions, class_names: Path | None) -> Any:
    """Return the run with what the options change.

    Args:
        trained: a :class:`resnet_jax.runs.trained.TrainedRun`.
        data: the options.
        class_names: file with the names of the outputs.

    Raises:
        UsageError: values that no network can have.
        DataError: the file cannot be read.
    """
    from resnet_jax.data.classes import read_class_names
    from resnet_jax.runs.trained import with_class_names, with_geometry, with_normalization

    if data.mean or data.std:
        trained = with_normalization(trained, data.mean, data.std)
    if data.image_size is not None or data.crop is not None:
        trained = with_geometry(trained, data.image_size, data.crop)
    if class_names is not None:
        trained = with_class_names(trained, read_class_names(class_names, trained.model.config.num_classes))
    return trained
