"""Test-time views for dense prediction: the output for a view is mapped back to the original pixels.

Mirror images and scales are averaged as probabilities, the usual multi-scale testing (Chen et al. 2018, DeepLab, arXiv
1606.00915, section 4); sliding windows are for networks trained on crops of images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax import ops
from resnet_jax.errors import UsageError
from resnet_jax.tasks.task import Batch, Task

PredictStep = Callable[[Mapping[str, Any], Batch], jax.Array]

#: Views that only exist for dense prediction.
PIXEL_VIEWS = ("multi_scale", "sliding")
#: Relative side lengths of the images of multi_scale; each is also mirrored.
SCALES = (0.75, 1.0, 1.25)
#: Windows of sliding along a side: each is half of it, and overlaps half of the next one.
WINDOWS = 3


def predict_pixel_views(predict_step: PredictStep, task: Any, views: str) -> PredictStep:
    """Return a predict step whose outputs (N, *sides, K) are averaged over views, computed one view at a time.

    ``flip``: the image and its mirror image; ``multi_scale``: both at each of :data:`SCALES`; ``sliding``: windows of
    half the sides, three along each, averaged where they overlap.

    Args:
        predict_step: from :func:`resnet_jax.training.step.make_predict_step`, with outputs at the positions of the
            pixels.
        task: averages by ``mean_outputs``.
        views: the kind of views.

    Raises:
        UsageError: for views that do not exist for dense prediction, or inputs that are not images.
    """
    if views not in ("flip", *PIXEL_VIEWS):
        raise UsageError(f"views {views} are not of task.kind {task.kind}: use flip, multi_scale, sliding or none")

    def predict(variables: Mapping[str, Any], batch: Batch) -> jax.Array:
        images = batch["image"]
        if images.ndim != 4:
            raise UsageError(
                f"views are of images (height, width, channels), not of {images.shape[1:]}: leave them out"
            )

        def outputs(seen: jax.Array) -> jax.Array:
            return predict_step(variables, {**batch, "image": seen})

        if views == "sliding":
            return _sliding(outputs, task, images)
        sides = jax.eval_shape(outputs, images).shape[1:-1]
        found, factor = [], max(images.shape[1] // sides[0], 1)  # of data.downscale, which has to divide every view
        for scale in SCALES if views == "multi_scale" else (1.0,):
            seen = _scaled(images, scale, factor)
            found += [
                ops.resize_bilinear(each, sides) for each in (outputs(seen), outputs(seen[:, :, ::-1])[:, :, ::-1])
            ]
        return task.mean_outputs(jnp.stack(found))

    return predict


def _scaled(images: jax.Array, scale: float, multiple: int) -> jax.Array:
    """Return images at another scale, with the same dtype and sides that are multiples of a number."""
    if scale == 1.0:
        return images
    sides = tuple(max(round(side * scale / multiple), 1) * multiple for side in images.shape[1:-1])
    shape = (images.shape[0], *sides, images.shape[-1])
    found = jax.image.resize(images.astype(jnp.float32), shape, "bilinear")
    whole = jnp.issubdtype(images.dtype, jnp.integer)
    return (jnp.round(found) if whole else found).astype(images.dtype)


def _sliding(outputs: Callable[[jax.Array], jax.Array], task: Task, images: jax.Array) -> jax.Array:
    """Return the outputs of overlapping windows combined: logarithms of the mean probabilities at every position.

    Raises:
        UsageError: if the sides do not divide into windows, or the windows' outputs do not align with positions.
    """
    height, width = images.shape[1:3]
    parts = 2 * (WINDOWS + 1)
    if height % parts or width % parts:
        raise UsageError(f"views sliding needs sides that {parts} divides, and these are {height}x{width}")
    windows = [
        (row * height // (WINDOWS + 1), column * width // (WINDOWS + 1))
        for row in range(WINDOWS)
        for column in range(WINDOWS)
    ]
    rows, columns = height // 2, width // 2
    total, seen = None, None
    for top, left in windows:
        found = jax.nn.softmax(outputs(images[:, top : top + rows, left : left + columns]), axis=-1)
        by = rows // found.shape[1]  # pixels a side of a position
        if (found.shape[1] * by, found.shape[2] * by) != (rows, columns):
            raise UsageError(f"views sliding: outputs of {found.shape[1:3]} do not divide windows of {rows}x{columns}")
        if total is None or seen is None:
            total = jnp.zeros((found.shape[0], height // by, width // by, found.shape[-1]), found.dtype)
            seen = jnp.zeros((1, height // by, width // by, 1), found.dtype)
        place = (
            slice(None),
            slice(top // by, top // by + found.shape[1]),
            slice(left // by, left // by + found.shape[2]),
        )
        total, seen = total.at[place].add(found), seen.at[place].add(1.0)
    assert total is not None
    assert seen is not None
    return jnp.log(jnp.maximum(total / seen, jnp.finfo(total.dtype).tiny))
