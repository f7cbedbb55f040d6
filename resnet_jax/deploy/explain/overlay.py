"""What a network says of one image and where it sees it, fast: for a server's page."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.augment import downscaled, normalize
from resnet_jax.deploy.explain.forward import FINAL, maps_and_gradients, upsampled
from resnet_jax.deploy.explain.gradcam import weighted_map
from resnet_jax.deploy.explain.targets import choose_target
from resnet_jax.errors import DataError
from resnet_jax.models.resnet import ResNet
from resnet_jax.report.heat import encode_png, overlay
from resnet_jax.runs.inference import Image, Inference
from resnet_jax.runs.trained import class_names_of
from resnet_jax.tasks.task import Task


class Overlay(NamedTuple):
    """What a network says of an image, and a picture of where.

    Attributes:
        classes: names, the likeliest first.
        probabilities: of these; of values the values, of boxes their scores, of pixels their shares.
        png: bytes of a PNG: the image as the network sees it, with the Grad-CAM map of the first answer over it.
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    png: bytes


def gradcam_overlay(inference: Inference, image: Image, k: int = 5, *, layer: str = FINAL) -> Overlay:
    """Return the k likeliest classes of an image and its Grad-CAM picture.

    One compiled program of one image, forward and backward: the first call compiles it, later ones take a few times a
    forward pass. Safe to call from several threads.

    Args:
        inference: a network ready for images.
        image: a file, its bytes or pixels.
        k: classes at most.
        layer: see :func:`.grad_cam`.

    Raises:
        DataError: the image cannot be read.
        UsageError: the network has no classes to name, or no such layer.
    """
    trained = inference.trained
    names, task, card = class_names_of(trained), trained.task, trained.card
    name = str(image) if isinstance(image, str) else "0"
    pixels = inference.read(image, name)
    if isinstance(pixels, DataError):
        raise pixels
    arguments = (trained.model, card.mean, card.std, card.downscale, task, layer, trained.variables)
    outputs, heat = _explained(*arguments, jnp.asarray(pixels[None]))
    (pairs,) = task.predict(jax.tree.map(np.asarray, outputs), k)
    pairs = pairs[:k]
    picture = encode_png(overlay(pixels, np.asarray(heat[0])))
    return Overlay(tuple(names[index] for index, _ in pairs), tuple(number for _, number in pairs), picture)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _explained(
    model: ResNet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    downscale: int,
    task: Task,
    layer: str,
    variables: dict[str, Any],
    images: jax.Array,
) -> tuple[Any, jax.Array]:
    """Return the outputs for images (N, H, W, C) as they are stored, and their Grad-CAM maps (N, H, W)."""
    inputs = downscaled(normalize(images, mean, std, jnp.dtype(model.config.dtype)), downscale)
    found = maps_and_gradients(model, variables, inputs, functools.partial(choose_target, task), (layer,))
    heat = weighted_map(found.values[layer], found.gradients[layer])
    outputs = jax.tree.map(
        lambda each: each.astype(jnp.float32) if jnp.issubdtype(each.dtype, jnp.floating) else each, found.outputs
    )
    return outputs, upsampled(heat, images.shape[1:-1])
