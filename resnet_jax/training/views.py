"""Test-time views: an image is evaluated several times, mirrored or in crops, and the outputs are averaged.

Ten crops follow A. Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks (NIPS 2012,
section 4.1): four corners and the center, and their mirror images; probabilities are averaged, not outputs. Mirror
images and shifts by a pixel follow airbench (K. Jordan, arXiv 2404.00498, section 3.5), which averages outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from resnet_jax.errors import UsageError
from resnet_jax.tasks.task import Batch, Task
from resnet_jax.training.pixel_views import PIXEL_VIEWS, predict_pixel_views

Views = Literal["none", "flip", "flip_shift", "ten_crop", "multi_scale", "sliding"]
PredictStep = Callable[[Mapping[str, Any], Batch], jax.Array]

#: Side of the images that ten crops are taken from, relative to the crop: 256 to 224.
MARGIN = 1 / 0.875


def views_of(images: jax.Array, views: Views, size: int | None = None) -> jax.Array:
    """Return the views of images, (views, N, height, width, channels).

    Args:
        images: (N, height, width, channels); larger than the crops for ten_crop.
        views: ``none``: the images; ``flip``: these and their mirror images; ``flip_shift``: these twice, and shifted
            by a pixel up and left, and down and right (border reflected), and the mirror images of all four;
            ``ten_crop``.
        size: side of a crop in pixels.

    Raises:
        UsageError: for inputs that are not images, or not larger than their crops.

    >>> views_of(jnp.arange(3).reshape(1, 1, 3, 1), "flip").reshape(2, 3).tolist()
    [[0, 1, 2], [2, 1, 0]]
    """
    if views == "none":
        return images[None]
    if images.ndim != 4:
        raise UsageError(f"views are of images (height, width, channels), not of {images.shape[1:]}: leave them out")
    if views == "flip":
        return jnp.stack([images, images[:, :, ::-1]])
    if views == "flip_shift":
        moved = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        shown = [images, images, moved[:, 2:, 2:], moved[:, :-2, :-2]]
        return jnp.stack([*shown, *(each[:, :, ::-1] for each in shown)])
    height, width = images.shape[1:3]
    if size is None or size > min(height, width):
        raise UsageError(f"ten crops of {size} pixels need larger images than {height}x{width}")
    down, right = height - size, width - size
    corners = ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2))
    crops = [images[:, top : top + size, left : left + size] for top, left in corners]
    return jnp.stack([*crops, *(crop[:, :, ::-1] for crop in crops)])


def predict_views(predict_step: PredictStep, task: Task, views: Views, size: int | None = None) -> PredictStep:
    """Return a predict step whose outputs are the average over views, computed one view at a time.

    Args:
        predict_step: from :func:`resnet_jax.training.step.make_predict_step`.
        task: averages its outputs by ``mean_outputs``; without it, outputs are averaged as they are. Dense prediction
            has its own views (:mod:`resnet_jax.training.pixel_views`).
        views: the kind of views.
        size: side of a crop.
    """
    if views == "none":
        return predict_step
    if getattr(task, "of_pixels", False):
        return predict_pixel_views(predict_step, task, views)
    if views in PIXEL_VIEWS:
        raise UsageError(f"views {views} are of tasks of pixels, and not of task.kind {task.kind}: use flip, or none")
    average = getattr(task, "mean_outputs", lambda outputs: outputs.mean(axis=0))

    def predict(variables: Mapping[str, Any], batch: Batch) -> jax.Array:
        seen = views_of(batch["image"], views, size)
        return average(jax.lax.map(lambda images: predict_step(variables, {**batch, "image": images}), seen))

    return predict
