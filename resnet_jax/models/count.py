"""Exact sizes of a network, derived from shapes alone: nothing is allocated and nothing runs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from resnet_jax.models import paths
from resnet_jax.models.attention import ChannelConv, Dense
from resnet_jax.models.block import Block
from resnet_jax.models.layers import Conv, Head
from resnet_jax.models.layout import stack
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.towers import TwoTowers


@dataclasses.dataclass(frozen=True)
class Counts:
    """Sizes of a network.

    Attributes:
        params: trainable scalars.
        batch_stats: running means and variances (scalars, not trainable).
        macs: multiply-adds of all convolutions and linear layers for one image, without norms, activations and pooling.
    """

    params: int
    batch_stats: int
    macs: int


def count(model: nn.Module, input_shape: Sequence[int]) -> Counts:
    """Count parameters, statistics and multiply-adds of ``model`` on one image of ``input_shape`` (no batch axis).

    >>> from resnet_jax.models.zoo import create_model
    >>> count(create_model("resnet20_cifar"), (32, 32, 3))
    Counts(params=269722, batch_stats=1376, macs=40551040)
    """
    if isinstance(model, TwoTowers):
        parts = zip(model.towers.values(), (input_shape, model.other_shape), strict=True)
        left, right = (count(tower, shape) for tower, shape in parts)
        temperature = 1
        return Counts(
            left.params + right.params + temperature, left.batch_stats + right.batch_stats, left.macs + right.macs
        )
    macs: dict[tuple[str, ...], int] = {}

    def tally(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if isinstance(context.module, (Conv, Head, Dense, ChannelConv)) and context.method_name == "__call__":
            kernel = context.module.variables["params"]["kernel"]
            path, own = context.module.path, math.prod(out.shape[1:-1]) * math.prod(kernel.shape)
            macs[path] = macs.get(path, 0) + own  # a layer that several maps share is called for each of them
        return out

    with nn.intercept_methods(tally):
        shapes = _shapes(_condensed(model), input_shape)
    total = sum(value * _repeats(model, path) for path, value in macs.items())
    shapes = _listed(model, shapes)
    return Counts(_scalars(shapes["params"]), _scalars(shapes.get("batch_stats", {})), total)


@dataclasses.dataclass(frozen=True)
class Elements:
    """Array elements of one image that pass through its convolutions and sums, to count memory traffic with.

    Attributes:
        conv_in: inputs of all convolutions.
        conv_out: outputs of all convolutions.
        residual: outputs of all residual sums.
    """

    conv_in: int
    conv_out: int
    residual: int


def count_elements(model: ResNet | TwoTowers, input_shape: Sequence[int]) -> Elements:
    """Count the elements of ``model``'s feature maps for one image of ``input_shape`` (no batch axis).

    >>> from resnet_jax.models.zoo import create_model
    >>> count_elements(create_model("resnet50"), (224, 224, 3))
    Elements(conv_in=10662400, conv_out=11113984, residual=5519360)
    """
    if isinstance(model, TwoTowers):
        parts = zip(model.towers.values(), (input_shape, model.other_shape), strict=True)
        each = [dataclasses.astuple(count_elements(tower, shape)) for tower, shape in parts]
        return Elements(*(sum(both) for both in zip(*each, strict=True)))
    sizes = {"in": 0, "out": 0, "sum": 0}

    def tally(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "__call__":
            repeats = _repeats(model, (*context.module.path, "", ""))
            if isinstance(context.module, Conv):
                sizes["in"] += repeats * args[0].size
                sizes["out"] += repeats * out.size
            elif isinstance(context.module, Block):
                sizes["sum"] += repeats * out.size
        return out

    with nn.intercept_methods(tally):
        _shapes(_condensed(model), input_shape)
    return Elements(sizes["in"], sizes["out"], sizes["sum"])


def abstract_variables(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    """Return the variables of ``model`` as shapes and dtypes, for one image of ``input_shape`` (no batch axis).

    Blocks after the second of a stage have the same shapes as the second, so only two are traced: 1,202 layers take no
    longer than 14.
    """
    if isinstance(model, TwoTowers):
        parts = zip(model.towers.items(), (input_shape, model.other_shape), strict=True)
        return model.joined({name: abstract_variables(tower, shape) for (name, tower), shape in parts})
    shapes = _listed(model, _shapes(_condensed(model), input_shape))
    return stack(shapes, model.config.execution) if isinstance(model, ResNet) else shapes


def shapes_of_blocks(
    model: nn.Module, input_shape: Sequence[int]
) -> tuple[dict[str, Any], Callable[[tuple[str, ...]], int]]:
    """Return the variables in the listed layout, and how many layers each traced layer stands for.

    Args:
        model: a network with one input.
        input_shape: shape of one image, without the batch axis.
    """
    return _listed(model, _shapes(_condensed(model), input_shape)), functools.partial(_repeats, model)


def _shapes(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    def init(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros((1, *input_shape)), train=False)

    return jax.eval_shape(init, jax.random.key(0))


def _condensed(model: nn.Module) -> nn.Module:
    """Return the network with at most two blocks per stage; other modules and unequal blocks stay as they are."""
    if not isinstance(model, ResNet):
        return model
    if model.config.branch_widths:
        return ResNet(dataclasses.replace(model.config, execution="unroll"))
    sizes = tuple(min(size, 2) for size in model.config.stage_sizes)
    return ResNet(dataclasses.replace(model.config, stage_sizes=sizes, execution="unroll"))


def _listed(model: nn.Module, variables: dict[str, Any]) -> dict[str, Any]:
    """Repeat the second block of each stage as often as ``model`` has further blocks."""
    if not isinstance(model, ResNet) or model.config.branch_widths:
        return variables
    expanded = {}
    for collection, tree in variables.items():
        expanded[collection] = dict(tree)
        for stage, size in enumerate(model.config.stage_sizes):
            name, second = paths.stage_name(stage), paths.block_name(1)
            if size > 2 and name in tree:
                blocks = dict(tree[name])
                blocks |= {paths.block_name(index): blocks[second] for index in range(2, size) if second in blocks}
                expanded[collection][name] = blocks
    return expanded


def _repeats(model: nn.Module, path: tuple[str, ...]) -> int:
    """Return how many layers of ``model`` the layer at ``path`` of the condensed network stands for."""
    place = paths.parse(path)
    condensed = isinstance(model, ResNet) and not model.config.branch_widths
    if condensed and place.stage is not None and place.block == 1:
        return model.config.stage_sizes[place.stage] - 1
    return 1


def _scalars(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
