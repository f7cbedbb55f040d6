"""Grad-CAM: where in the last map the evidence for a class lies, with channels weighted by their mean gradient."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.deploy.explain.forward import FINAL, maps_and_gradients


@functools.partial(jax.jit, static_argnames=("model", "layer"))
def grad_cam(
    model: nn.Module, variables: Mapping[str, Any], images: Array, target: Any, *, layer: str = FINAL
) -> Float[Array, " n *sides"]:
    r"""Return the Grad-CAM map of every image at the resolution of the layer; all values are at least 0.

    .. math:: L = \mathrm{ReLU}\Big(\sum_k \big(\tfrac1Z \sum_{ij} \tfrac{\partial y}{\partial A^k_{ij}}\big) A^k\Big)

    R. R. Selvaraju et al. 2017, *Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization*
    (arXiv 1610.02391, equations 1 and 2). :func:`.upsampled` scales it to the size of the image.

    Args:
        model: the network.
        variables: its variables.
        images: normalized, (N, *sides, C).
        target: a :class:`.Target`, or classes (N,).
        layer: the layer whose map to use: ``final``, which is pooled, or another of :func:`layers_of`.

    Raises:
        UsageError: the network has no such layer.
    """
    found = maps_and_gradients(model, variables, images, target, (layer,))
    return weighted_map(found.values[layer], found.gradients[layer])


def weighted_map(
    values: Float[Array, "n *sides c"], gradients: Float[Array, "n *sides c"]
) -> Float[Array, " n *sides"]:
    """Return equation 2 for a map and its gradient."""
    axes = tuple(range(1, values.ndim - 1))
    weights = gradients.mean(axis=axes, keepdims=True)
    return jax.nn.relu((weights * values).sum(axis=-1))
