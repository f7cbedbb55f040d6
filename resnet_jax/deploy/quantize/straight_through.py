"""Quantization-aware training: the network computes with values rounded to 8 bits.

Rounding has no useful derivative, so its gradient is that of the identity within the range and 0 outside
(straight-through estimator, Bengio et al. 2013, arXiv 1308.3432). The rounded tensors are exactly those that the QDQ
file rounds: input and weights of every convolution and of the head, the two summands of branch and skip, and each
block's output. What is trained is therefore what the file computes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from resnet_jax.deploy.quantize.graph import Index, Sites
from resnet_jax.deploy.quantize.qdq import MOST_WEIGHT
from resnet_jax.deploy.quantize.ranges import LEVELS, Range
from resnet_jax.errors import UsageError
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.layout import unstack
from resnet_jax.models.resnet import ResNet

Path = tuple[str, ...]


def round_activations(x: Float[Array, "*any"], range_: Range) -> Float[Array, "*any"]:
    """Return the values rounded to 8 bits; the gradient is 1 within the range and 0 outside.

    >>> round_activations(jnp.array([-1.0, 0.012, 9.0]), Range(0.0, 2.55)).tolist()
    [0.0, 0.009999999776482582, 2.549999952316284]
    """
    scale, zero = range_.scale_and_zero()
    low, high = -zero * scale, (LEVELS - 1 - zero) * scale
    inside = jnp.clip(x, low, high)
    rounded = (jnp.clip(jnp.round(x / scale) + zero, 0, LEVELS - 1) - zero) * scale
    return inside + jax.lax.stop_gradient(rounded - inside)


def round_weights(kernel: Float[Array, "*window o"], most: int = MOST_WEIGHT) -> Float[Array, "*window o"]:
    """Return a kernel rounded to int8, with one scale per output channel (the last axis); the gradient is 1."""
    largest = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)), keepdims=True)
    scale = jnp.where(largest > 0, largest / most, 1)
    return kernel + jax.lax.stop_gradient(jnp.round(kernel / scale) * scale - kernel)


class RoundedResNet(ResNet):
    """A folded network that computes with rounded values. Its variables are those of the network itself.

    Attributes:
        before: path of a module -> the range of its input.
        after: path of a module -> the range of its output.
        kernels: paths of the modules whose kernels are rounded.
        most_weight: steps from 0 to the largest weight of a channel.
    """

    before: tuple[tuple[Path, Range], ...] = ()
    after: tuple[tuple[Path, Range], ...] = ()
    kernels: tuple[Path, ...] = ()
    most_weight: int = MOST_WEIGHT

    @nn.nowrap
    def apply(self, variables: Any, *args: Any, **options: Any) -> Any:
        """Return the network's outputs, computed with rounded values."""
        before, after = dict(self.before), dict(self.after)

        def rounded(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            path = context.module.path
            if context.method_name != "__call__":
                return call(*args, **kwargs)
            if path in before:
                args = (round_activations(args[0], before[path]), *args[1:])
            found = call(*args, **kwargs)
            return round_activations(found, after[path]) if path in after else found

        params: dict[Path, Any] = dict(flatten_dict(variables["params"]))
        for path in self.kernels:
            params[*path, "kernel"] = round_weights(params[*path, "kernel"], self.most_weight)
        with nn.intercept_methods(rounded):
            return super().apply({**variables, "params": unflatten_dict(params)}, *args, **options)


def rounded_network(
    model: ResNet,
    variables: Mapping[str, Any],
    graph: Any,
    sites: Sites,
    ranges: Mapping[str, Range],
    most_weight: int = MOST_WEIGHT,
) -> tuple[RoundedResNet, dict[str, Any]]:
    """Return the network for training with rounding, and its initial variables.

    Args:
        model: a network without batch norm, folded or originally without.
        variables: its variables.
        graph: its ONNX graph, whose nodes are named by the paths of the modules.
        sites: what to quantize in the graph.
        ranges: the range of every tensor in ``sites.calibrated``.
        most_weight: steps from 0 to the largest weight of a channel.

    Raises:
        UsageError: the weights are standardized, so the rounded weights would not be the trained ones.
    """
    config = model.config
    if config.standardizes != "none":
        raise UsageError(
            f"weight_standardization {config.standardizes}: kind qat rounds the weights as they are trained, and these "
            "are standardized first; kind static quantizes this network"
        )

    def range_of(name: str) -> Range | None:
        return ranges[sites.tensors[name]] if name in sites.tensors else None

    before, after = {}, {}
    kernels = tuple(dict.fromkeys(_path(node.name) for node in sites.linear))
    known = {path[:-1] for path in flatten_dict(unstack(variables["params"])) if path[-1] == "kernel"}
    if strange := [path for path in kernels if path not in known]:
        raise UsageError(
            f"no kernel {'/'.join(strange[0])}: kind qat trains classifiers without towers of several maps"
        )
    for node in sites.linear:
        before[_path(node.name)] = range_of(node.input[0])
    index = Index.of(graph)
    for node in graph.node:
        *block, last = _path(node.name)
        if last != "sum" or node.op_type != "Add" or not block or not block[-1].startswith("block"):
            continue
        for name in node.input:
            for part in ("branch", "shortcut"):
                if name.startswith("/".join([*block, part, ""])):
                    after[*block, part] = range_of(name)
        ends = [node.output[0], *(taker.output[0] for taker in index.takers.get(node.output[0], []))]
        found = [range_of(name) for name in ends if name in ("/".join([*block, end]) for end in ("sum", "act"))]
        after[tuple(block)] = next((each for each in found if each is not None), None)
    after["stem",] = _range_of_stem(graph, index, range_of)
    listed = ResNetConfig(**{**_fields(config), "execution": "unroll"})
    network = RoundedResNet(
        listed,
        before=tuple((path, each) for path, each in before.items() if each is not None),
        after=tuple((path, each) for path, each in after.items() if each is not None),
        kernels=kernels,
        most_weight=most_weight,
    )
    return network, {"params": unstack(variables["params"])}


def _range_of_stem(graph: Any, index: Index, range_of: Callable[[str], Range | None]) -> Range | None:
    """Return the range of the stem's output, which is the last of its tensors."""
    made = [node.output[0] for node in graph.node if node.name.startswith("stem/") and node.output[0] in index.takers]
    leaves = [name for name in made if any(not taker.name.startswith("stem/") for taker in index.takers[name])]
    return range_of(leaves[-1]) if leaves else None


def _path(name: str) -> Path:
    return tuple(name.split("/"))


def _fields(config: ResNetConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
