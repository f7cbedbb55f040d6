"""Importance of each channel in a branch: one score each, higher is more important.

==============  =====================================================================================================
``norm_scale``  magnitude of the following norm's scale (network slimming, Liu et al. 2017, arXiv 1708.06519)
``activation``  mean absolute activation over training images and positions, as the next convolution reads it
                (Hu et al. 2016, arXiv 1607.03250, count how often it is not zero)
``filters``     sum of the absolute weights of its filter (Li et al. 2017, arXiv 1608.08710)
``random``      random scores: the baseline for the others
==============  =====================================================================================================
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from resnet_jax.deploy.prune.channels import Layer, layers_of
from resnet_jax.deploy.prune.how import Criterion
from resnet_jax.errors import UsageError
from resnet_jax.models.layers import Conv
from resnet_jax.models.layout import unstack
from resnet_jax.models.resnet import ResNet


def channel_scores(
    model: ResNet,
    variables: Mapping[str, Any],
    by: Criterion,
    *,
    images: Iterable[np.ndarray] = (),
    seed: int = 0,
) -> list[np.ndarray]:
    """Return the scores of the channels of each of :func:`.layers_of`, float64 (channels,).

    Args:
        model: the network.
        variables: its parameters and statistics, in any layout.
        by: the criterion.
        images: for ``activation``: batches of normalized images (N, *spatial, C).
        seed: for ``random``.

    Raises:
        UsageError: the network is not prunable, ``norm_scale`` has no norms with a scale, or there are no images.
    """
    layers = layers_of(model.config)
    params = flatten_dict(unstack(dict(variables["params"])))
    match by:
        case "norm_scale":
            return [_norm_scale(layer, params) for layer in layers]
        case "filters":
            kernels = [np.asarray(params[*layer.branch, f"conv{layer.number}", "kernel"]) for layer in layers]
            return [np.abs(kernel.astype(np.float64)).sum(tuple(range(kernel.ndim - 1))) for kernel in kernels]
        case "random":
            rng = np.random.default_rng(seed)
            return [rng.random(layer.channels) for layer in layers]
        case "activation":
            return mean_activations(model, variables, layers, images)
        case _:
            assert_never(by)


def _norm_scale(layer: Layer, params: Mapping[tuple[str, ...], Any]) -> np.ndarray:
    path = (*layer.branch, layer.norm, "scale")
    if path not in params:
        raise UsageError(
            f"norm_scale scores channels by the scale of their norm, and {'/'.join(path[:-1])} has none: use "
            "activation or filters"
        )
    return np.abs(np.asarray(params[path], np.float64))


def mean_activations(
    model: ResNet, variables: Mapping[str, Any], layers: Sequence[Layer], images: Iterable[np.ndarray]
) -> list[np.ndarray]:
    """Return the mean absolute value of each channel that the convolution after each layer reads, float64.

    Raises:
        UsageError: there are no images.
    """
    listed = {name: unstack(dict(tree)) for name, tree in variables.items()}
    total, count = [np.zeros(layer.channels) for layer in layers], 0
    for batch in images:
        found = _sums(model, tuple(layers), listed, jnp.asarray(batch))
        total = [sum_ + np.asarray(more, np.float64) for sum_, more in zip(total, found, strict=True)]
        count += len(batch)
    if not count:
        raise UsageError("activations need training images, and none are given")
    return [sum_ / count for sum_ in total]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sums(model: ResNet, layers: tuple[Layer, ...], variables: Any, images: jax.Array) -> list[jax.Array]:
    """Return, for each layer, the sum over images of the mean over positions of each channel that is read."""
    wanted = {(*layer.branch, f"conv{layer.number + 1}") for layer in layers}
    seen: dict[tuple[str, ...], jax.Array] = {}

    def look(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        conv = context.module
        if isinstance(conv, Conv) and context.method_name == "__call__" and conv.path in wanted:
            x = jnp.abs(args[0].astype(jnp.float32))
            seen[conv.path] = x.mean(tuple(range(1, x.ndim - 1))).sum(0)
        return call(*args, **kwargs)

    unrolled = ResNet(dataclasses.replace(model.config, execution="unroll"))
    with nn.intercept_methods(look):
        unrolled.apply(variables, images, train=False)
    return [seen[*layer.branch, f"conv{layer.number + 1}"] for layer in layers]
