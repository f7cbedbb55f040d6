"""Channels inside the branches of residual blocks: which can be removed, and the network without them.

Only channels inside a branch can be removed. A block's output is added to the skip, so all blocks of a stage would have
to lose the same output channels. Removing a channel also removes the filter that computes it, its norm's scale, bias
and statistics, and the next convolution's weights for it. The result is exactly the full network whose next convolution
has zero weights for these channels (:func:`silence_channels`); nothing else differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import UsageError
from resnet_jax.models.branches import branch_convs
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.layout import stack, unstack
from resnet_jax.models.paths import BLOCK
from resnet_jax.models.plan import plan_stages
from resnet_jax.models.resnet import ResNet

Variables = Mapping[str, Any]

#: Norms whose result for a channel does not depend on other channels.
CHANNELWISE_NORMS = ("batch", "instance", "none", "folded")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution inside a branch whose output channels can be removed.

    Attributes:
        block: path of its block, such as ``stage1/block0``.
        number: its place in the branch, from 1.
        norm: name of the norm that follows it in the branch, whose channels are removed too.
        channels: number of output channels.
    """

    block: str
    number: int
    norm: str
    channels: int

    @property
    def branch(self) -> tuple[str, ...]:
        """Path of the branch."""
        return (*self.block.split("/"), "branch")

    @property
    def name(self) -> str:
        """Path of the convolution."""
        return f"{self.block}/branch/conv{self.number}"


def layers_of(config: ResNetConfig) -> tuple[Layer, ...]:
    """Return every convolution with removable channels in depth order: all of a branch but the last.

    Raises:
        UsageError: removing a channel would change others, or there is no such convolution.

    >>> from resnet_jax.models import create_model
    >>> [(layer.name, layer.norm, layer.channels) for layer in layers_of(create_model("resnet20_cifar").config)][:2]
    [('stage1/block0/branch/conv1', 'norm1', 16), ('stage1/block1/branch/conv1', 'norm1', 16)]
    """
    require_prunable(config)
    found = []
    for block in (block for stage in plan_stages(config) for block in stage):
        path = BLOCK.format(stage=block.stage + 1, block=block.index)
        for number, conv in enumerate(branch_convs(config, block)[:-1], start=1):
            norm = f"norm{number + 1 if config.is_pre else number}"
            found.append(Layer(path, number, norm, conv.features))
    if not found:
        raise UsageError(f"block {config.block} has one convolution: there are no channels within a branch to remove")
    return tuple(found)


def require_prunable(config: ResNetConfig) -> None:
    """Reject a network in which the channels of a branch depend on one another.

    Raises:
        UsageError: they do; the message says why.
    """
    if config.groups != 1:
        raise UsageError(f"channels in {config.groups} groups cannot be removed one by one (groups)")
    if config.norm not in CHANNELWISE_NORMS:
        raise UsageError(
            f"norm {config.norm} normalizes channels together: without some of them the others would change. Channels "
            f"can be removed where norm is {', '.join(CHANNELWISE_NORMS)}"
        )
    if config.standardizes != "none":
        raise UsageError(
            f"weight_standardization {config.standardizes} standardizes a filter over its input channels: without some "
            "of them the others would change"
        )


def keep_channels(model: ResNet, variables: Variables, kept: Sequence[np.ndarray]) -> tuple[ResNet, dict[str, Any]]:
    """Return the network with only some of the channels in its branches, and its variables.

    Args:
        model: the network.
        variables: its parameters and statistics, in any layout.
        kept: for each of :func:`layers_of`, ascending indices of the channels to keep.

    Raises:
        UsageError: the network is not prunable, or the indices do not fit.
    """
    layers = layers_of(model.config)
    _check(layers, kept)
    flat: Any = {name: flatten_dict(unstack(dict(tree))) for name, tree in variables.items()}
    for layer, indices in zip(layers, kept, strict=True):
        for tree in flat.values():
            for path in list(tree):
                if (axis := _axis(layer, path)) is not None:
                    tree[path] = np.take(np.asarray(tree[path]), indices, axis)
    widths = tuple(len(indices) for indices in kept)
    execution = "auto" if model.config.execution == "scan" else model.config.execution
    config = dataclasses.replace(model.config, branch_widths=widths, execution=execution)
    return ResNet(config), {name: stack(unflatten_dict(tree), execution) for name, tree in flat.items()}


def silence_channels(model: ResNet, variables: Variables, kept: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return variables of the full network whose convolutions have zero weights for the channels that are not kept.

    The outputs equal those of :func:`keep_channels` up to the order of rounding in sums.
    """
    layers = layers_of(model.config)
    _check(layers, kept)
    params: Any = flatten_dict(unstack(dict(variables["params"])))
    for layer, indices in zip(layers, kept, strict=True):
        path = (*layer.branch, f"conv{layer.number + 1}", "kernel")
        kernel = np.zeros_like(params[path])
        kernel[..., indices, :] = np.asarray(params[path])[..., indices, :]
        params[path] = kernel
    return {**variables, "params": stack(unflatten_dict(params), model.config.execution)}


def _axis(layer: Layer, path: tuple[str, ...]) -> int | None:
    """Return the axis of the leaf at ``path`` that indexes the channels of ``layer``, or None."""
    if path[: len(layer.branch)] != layer.branch:
        return None
    module = path[len(layer.branch)]
    if module in (f"conv{layer.number}", layer.norm):
        return -1  # for a kernel (*window, in, out), a bias, and every vector of the norm
    is_next = module == f"conv{layer.number + 1}" and path[-1] == "kernel"
    return -2 if is_next else None


def _check(layers: Sequence[Layer], kept: Sequence[np.ndarray]) -> None:
    if len(kept) != len(layers):
        raise UsageError(f"there are {len(layers)} convolutions within branches, and channels of {len(kept)} are given")
    for layer, indices in zip(layers, kept, strict=True):
        found = np.asarray(indices)
        ascending = found.ndim == 1 and np.all(np.diff(found) > 0)
        if not len(found) or not ascending or found[0] < 0 or found[-1] >= layer.channels:
            raise UsageError(
                f"channels that stay of {layer.name} must be ascending numbers in 0..{layer.channels - 1}, one at least"
            )
