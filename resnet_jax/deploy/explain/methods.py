"""The methods by name, all as functions from images to maps of the same size."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.deploy.explain.forward import upsampled
from resnet_jax.deploy.explain.gradcam import grad_cam
from resnet_jax.deploy.explain.gradcam_plus import grad_cam_plus_plus
from resnet_jax.deploy.explain.integrated import Attributions, integrated_gradients_within
from resnet_jax.deploy.explain.occluded import occlusion
from resnet_jax.deploy.explain.settings import Settings
from resnet_jax.deploy.explain.smoothgrad import smooth_grad
from resnet_jax.deploy.explain.targets import Target
from resnet_jax.errors import unknown

Compute = Callable[[nn.Module, Mapping[str, Any], Array, Target, Settings], Array]


@dataclasses.dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        title: title for people.
        signed: whether its maps distinguish evidence for (above 0) and against (below 0).
        compute: ``(model, variables, images, target, settings) -> (N, *sides)``.
        says: a sentence about the meaning of the map.
    """

    title: str
    signed: bool
    compute: Compute
    says: str


def explain(
    name: str, model: nn.Module, variables: Mapping[str, Any], images: Array, target: Target, settings: Settings
) -> Float[Array, " n *sides"]:
    """Return the maps of the method called ``name``, at the size of the images.

    Raises:
        UsageError: there is no such method or layer.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return _compiled(name, model, variables, images, target, settings)


@functools.partial(jax.jit, static_argnames=("name", "model", "settings"))
def _compiled(
    name: str, model: nn.Module, variables: Mapping[str, Any], images: Array, target: Target, settings: Settings
) -> Array:
    return METHODS[name].compute(model, variables, images, target, settings)


def _grad_cam(model: Any, variables: Any, images: Array, target: Target, settings: Settings) -> Array:
    return upsampled(grad_cam(model, variables, images, target, layer=settings.layer), images.shape[1:-1])


def _grad_cam_plus_plus(model: Any, variables: Any, images: Array, target: Target, settings: Settings) -> Array:
    return upsampled(grad_cam_plus_plus(model, variables, images, target, layer=settings.layer), images.shape[1:-1])


def integrated(
    model: Any, variables: Any, images: Array, target: Target, settings: Settings, *, refine: bool = True
) -> Attributions:
    """Return integrated gradients with these settings; without ``refine``, with the initial steps only."""
    tolerance = settings.tolerance if refine and settings.tolerance else float("inf")
    most = max(settings.steps, settings.most_steps)
    return integrated_gradients_within(model, variables, images, target, tolerance, steps=settings.steps, most=most)


def _integrated(model: Any, variables: Any, images: Array, target: Target, settings: Settings) -> Array:
    return integrated(model, variables, images, target, settings).values.sum(axis=-1)


def _smooth_grad(model: Any, variables: Any, images: Array, target: Target, settings: Settings) -> Array:
    key = jax.random.key(settings.seed)
    found = smooth_grad(model, variables, images, target, key, samples=settings.samples, noise=settings.noise)
    return jnp.abs(found).sum(axis=-1)


def _occlusion(model: Any, variables: Any, images: Array, target: Target, settings: Settings) -> Array:
    sides = images.shape[1:-1]
    window = None if settings.window is None else tuple(min(settings.window, side) for side in sides)
    return occlusion(model, variables, images, target, window=window)


#: Every method by its name.
METHODS: dict[str, Method] = {
    "grad_cam": Method("Grad-CAM", False, _grad_cam, "channels of the map weighted by their mean gradient"),
    "grad_cam_plus_plus": Method(
        "Grad-CAM++", False, _grad_cam_plus_plus, "the same with positions weighted by what they alone would explain"
    ),
    "integrated_gradients": Method(
        "Integrated gradients", True, _integrated, "what every position adds to the score (red) or takes from it (blue)"
    ),
    "smooth_grad": Method("SmoothGrad", False, _smooth_grad, "the size of the gradient, averaged over noisy copies"),
    "occlusion": Method(
        "Occlusion", True, _occlusion, "how far the score falls (red) or rises (blue) when a window is covered"
    ),
}
"""Name -> method."""
