"""Grad-CAM++: Grad-CAM with positions weighted by how much they alone would explain."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.deploy.explain.forward import FINAL, maps_and_gradients

#: Added to a denominator, as in the code of J. Gildenblat, so that 0 / 0 gives 0.
EPSILON = 1e-6


@functools.partial(jax.jit, static_argnames=("model", "layer"))
def grad_cam_plus_plus(
    model: nn.Module, variables: Mapping[str, Any], images: Array, target: Any, *, layer: str = FINAL
) -> Float[Array, " n *sides"]:
    r"""Return the Grad-CAM++ map of every image at the resolution of the layer; all values are at least 0.

    .. math:: L = \mathrm{ReLU}\Big(\sum_k A^k \sum_{ij} \alpha^k_{ij}\,\mathrm{ReLU}(g^k_{ij})\Big), \qquad
              \alpha^k_{ij} = \frac{(g^k_{ij})^2}{2 (g^k_{ij})^2 + (g^k_{ij})^3 \sum_{ab} A^k_{ab}}

    with g the gradient of the score. A. Chattopadhyay et al. 2018, *Grad-CAM++* (arXiv 1710.11063, equations 10 and
    19). There the score is the exponential of the logit; its factor exp(y) is the same everywhere and is left out.

    Args:
        model: the network.
        variables: its variables.
        images: normalized, (N, *sides, C).
        target: a :class:`.Target`, or classes (N,).
        layer: the layer whose map to use; see :func:`.grad_cam`.

    Raises:
        UsageError: the network has no such layer.
    """
    found = maps_and_gradients(model, variables, images, target, (layer,))
    values, gradients = found.values[layer], found.gradients[layer]
    axes = tuple(range(1, values.ndim - 1))
    square, total = gradients**2, values.sum(axis=axes, keepdims=True)
    alpha = square / (2 * square + total * gradients * square + EPSILON)
    weights = (alpha * jax.nn.relu(gradients)).sum(axis=axes, keepdims=True)
    return jax.nn.relu(jnp.sum(weights * values, axis=-1))
