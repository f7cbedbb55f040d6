"""The kernel of stem ``whiten`` of a run, computed from its training images before the first step.

It is a function of those images, their normalization and the network's choices, and does not depend on a seed. It is
part of the state like every parameter, and is restored with it from a checkpoint.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from resnet_jax.data.unreadable import unreadable_in
from resnet_jax.data.view import View
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.whitening import whitened, whitening_kernel
from resnet_jax.runs.data import RunData

#: The maximum number of evenly spaced training images that are used (arXiv 2404.00498).
IMAGES = 5000
CHUNK = 250


def whitening_start(model: ResNet, images: RunData) -> Callable[[Any], Any] | None:
    """Return a function that sets the whitening kernel in initial parameters; None for a network without one.

    Images are read when it is first called.

    Args:
        model: the network.
        images: images of the run.
    """
    if model.config.stem != "whiten":
        return None

    @functools.cache
    def kernel() -> np.ndarray:
        return whitening_kernel(normalized_images(images), model.config.whiten_window)

    return lambda params: whitened(params, jnp.asarray(kernel(), model.config.param_dtype))


def normalized_images(images: RunData, count: int = IMAGES) -> Iterator[np.ndarray]:
    """Yield training images as the network sees them without augmentation, float64 (n, *spatial, C) at a time.

    Args:
        images: images of the run.
        count: maximum number of images, evenly spaced because a source may be ordered by class.
    """
    records, card = images.splits.train, images.card
    unreadable = images.unreadable_of(records)
    view = View(records, images.geometry, training=False, unreadable=unreadable)
    count = min(count, len(records))
    indices = np.arange(count) * len(records) // count
    if unreadable is not None:
        indices = indices[~np.isin(indices, list(unreadable_in(records)))]
    scale = 255.0 if images.card.image_dtype == "uint8" else 1.0
    for start in range(0, len(indices), CHUNK):
        found, positions, _ = view.read(indices[start : start + CHUNK])
        values = found["image"][positions >= 0].astype(np.float64) / scale
        yield (values - np.asarray(card.mean)) / np.asarray(card.std)
