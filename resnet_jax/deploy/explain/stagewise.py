"""Class activation over stages: where each stage, from the stem to the last, has the evidence for a class."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.deploy.explain.forward import FINAL, layers_of, maps_and_gradients, upsampled
from resnet_jax.deploy.explain.gradcam import weighted_map

Rule: TypeAlias = Literal["grad_cam", "layer_cam"]


@functools.partial(jax.jit, static_argnames=("model", "layers", "rule"))
def stage_activations(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Array,
    target: Any,
    *,
    layers: Sequence[str] | None = None,
    rule: Rule = "layer_cam",
) -> dict[str, Float[Array, " n *sides"]]:
    r"""Return a class activation map of every stage, at the size of the images, from one backward pass.

    ``grad_cam`` weights a channel by its mean gradient, which means little for early maps, where one channel counts for
    the class at some places and against it at others. ``layer_cam`` (the default) weights every position by its own
    gradient:

    .. math:: L_{ij} = \mathrm{ReLU}\Big(\sum_k \mathrm{ReLU}(g^k_{ij}) A^k_{ij}\Big)

    P.-T. Jiang et al. 2021, *LayerCAM: Exploring Hierarchical Class Activation Maps for Localization* (equation 6).

    Args:
        model: the network.
        variables: its variables.
        images: normalized, (N, *sides, C).
        target: a :class:`.Target`, or classes (N,).
        layers: names of :func:`.layers_of`; default: all but ``final``, which is included only if it differs from the
            last stage's map.
        rule: how channels are weighted.

    Raises:
        UsageError: the network has no such layer.
    """
    if layers is None:
        config = getattr(model, "config", None)
        layers = [name for name in layers_of(model) if name != FINAL or getattr(config, "is_pre", False)]
    found = maps_and_gradients(model, variables, images, target, tuple(layers))
    maps = {}
    for layer in layers:
        values, gradients = found.values[layer], found.gradients[layer]
        if rule == "grad_cam":
            low = weighted_map(values, gradients)
        else:
            low = jax.nn.relu((jax.nn.relu(gradients) * values).sum(axis=-1))
        maps[layer] = upsampled(low, images.shape[1:-1])
    return maps
