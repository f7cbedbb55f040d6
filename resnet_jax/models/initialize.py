"""Initial variables, independent of how a network is executed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Key

from resnet_jax.models.layout import stack
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.towers import TwoTowers


def init_variables(model: nn.Module, key: Key[Array, ""], input_shape: Sequence[int]) -> dict[str, Any]:
    """Return the initial variables of ``model``: ``params`` and, with batch norm, ``batch_stats``.

    A loop draws each block's parameters from its own key, so that the compiled program does not grow with depth. The
    result is then converted to the layout of the network's ``execution``. (``model.init`` draws different numbers from
    the same key, and different ones for each layout.)

    Args:
        model: any Linen module called as ``model(x, train=...)``.
        key: for the parameters.
        input_shape: shape of one example, without the batch axis; for two towers, that of the left input.

    >>> import jax
    >>> from resnet_jax.models.zoo import create_model
    >>> def stage1(execution):
    ...     model = create_model("resnet20_cifar", stage_sizes=(3,), widths=(4,), execution=execution)
    ...     return jax.jit(lambda key: init_variables(model, key, (8, 8, 3))["params"]["stage1"])(jax.random.key(0))
    >>> listed, stacked = stage1("unroll")["block2"], stage1("scan")["blocks"]
    >>> bool((listed["branch"]["conv1"]["kernel"] == stacked["branch"]["conv1"]["kernel"][1]).all())
    True
    """
    if isinstance(model, TwoTowers):
        keys, shapes = jax.random.split(key), (input_shape, model.other_shape)
        parts = zip(model.towers.items(), keys, shapes, strict=True)
        made = {name: init_variables(tower, own, shape) for (name, tower), own, shape in parts}
        return model.joined(made)
    example = jnp.zeros((1, *input_shape))
    if not isinstance(model, ResNet):
        return dict(model.init(key, example, train=False))
    scanned = ResNet(dataclasses.replace(model.config, execution="scan", remat="none"))
    return stack(dict(scanned.init(key, example, train=False)), model.config.execution)
