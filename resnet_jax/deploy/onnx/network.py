"""Write a complete network as an ONNX model, from its configuration and its parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from resnet_jax.deploy.onnx.block import write_block
from resnet_jax.deploy.onnx.frontend import from_pixels, write_frontend
from resnet_jax.deploy.onnx.graph import IR_VERSION, OPSET, Graph, Weighted
from resnet_jax.deploy.onnx.heads import OUTPUT, write_head
from resnet_jax.deploy.onnx.norm import norm_and_activate
from resnet_jax.deploy.onnx.pooling import (
    channels_first,
    channels_last,
    global_pool,
    mean_of_blocks,
    resize_bilinear,
    sides_of,
)
from resnet_jax.deploy.onnx.stem import write_stem, write_transition
from resnet_jax.errors import UsageError
from resnet_jax.models import layout, paths
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.plan import plan_stages
from resnet_jax.models.resnet import ResNet

INPUT = "input"
#: Names of the dimensions that a graph leaves open.
BATCH, SIDES = "batch", {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
#: A protobuf, and therefore a single-file ONNX model, must be smaller than 2 GiB.
MOST_BYTES = 2**31 - 2**20


@dataclasses.dataclass(frozen=True)
class Input:
    """The input of a graph.

    Attributes:
        sides: sides of an input of the network (before ``downscale``).
        any_sides: whether the graph leaves them open.
        batch: batch size; None leaves it open.
        pixels: dtype of stored values (N, *sides, C) that the graph normalizes; None: it takes normalized (N, C,
            *sides), float32.
        scale: for pixels: divisor.
        mean: for pixels: subtracted after that, per channel.
        std: for pixels: divisor after that, per channel.
        downscale: the network sees inputs at 1 / downscale of their sides.
    """

    sides: tuple[int, ...]
    any_sides: bool = False
    batch: int | None = None
    pixels: str | None = None
    scale: float = 255.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    downscale: int = 1


@dataclasses.dataclass(frozen=True)
class Written:
    """An ONNX model and its components.

    Attributes:
        model: an ``onnx.ModelProto``.
        weighted: its convolutions and linear layers, in the order of computation.
        outputs: names of its outputs.
    """

    model: Any
    weighted: tuple[Weighted, ...]
    outputs: tuple[str, ...]


def write_network(
    config: ResNetConfig, variables: Mapping[str, Any], given: Input, metadata: Mapping[str, str] | None = None
) -> Written:
    """Return a network as an ONNX model, which computes in float32 whatever ``config.dtype`` says.

    Names of nodes are the paths of the network's modules, and the same whenever the same network is written. Outputs
    have the shapes of the network's own: for pixels (N, *sides, K).

    Args:
        config: the network's choices; those of a folded network if batch norm is folded.
        variables: ``params`` and, with batch norm, ``batch_stats``, in any layout.
        given: the input.
        metadata: strings to store in the file.

    Raises:
        UsageError: the package onnx is missing, a norm or head of the network is registered without an ONNX form, it
            detects boxes in images of any size, or it is larger than an ONNX file may be.
    """
    dims = config.spatial_dims
    graph = Graph(_flat(variables), 2 if config.frontend == "log_mel" else dims)
    x = INPUT
    if given.pixels is not None:
        x = from_pixels(graph, x, dims, given.scale, given.mean, given.std)
    outputs = _write(graph, config, x, given)
    if unused := graph.unused():
        raise UsageError(f"the network's variables are not those of its configuration: {unused[0]} is not used")
    return _model(graph, config, given, outputs, metadata or {})


def _write(graph: Graph, config: ResNetConfig, x: str, given: Input) -> dict[str, str]:
    full = x
    if given.downscale > 1:
        x = mean_of_blocks(graph, x, "downscaled", given.downscale)
    maps = {"input": x, **_features(graph, config, x)}
    sides = None if given.any_sides else tuple(side // given.downscale for side in given.sides)
    outputs = write_head(graph, config, maps, sides)
    if given.downscale == 1 or not _of_pixels(config):
        return outputs
    with graph.scope("upscaled"):
        found = channels_first(graph, outputs[OUTPUT], "channels_first", graph.dims)
        found = resize_bilinear(graph, found, "resized", sides_of(graph, full, "sides"))
        return {OUTPUT: channels_last(graph, found, "channels_last")}


def _features(graph: Graph, config: ResNetConfig, x: str) -> dict[str, str]:
    """Return the maps of :meth:`resnet_jax.models.ResNet.features`."""
    x = write_frontend(graph, config, x)
    with graph.scope(paths.STEM):
        x = write_stem(graph, config, x)
    maps = {"stem": x}
    for index, blocks in enumerate(plan_stages(config)):
        with graph.scope(paths.stage_name(index)):
            if config.transition == "conv_pool":
                with graph.scope(paths.TRANSITION):
                    x = write_transition(graph, config, x)
            for block in blocks:
                with graph.scope(paths.block_name(block.index)):
                    x = write_block(graph, config, block, x)
        maps[paths.stage_name(index)] = x
    if config.is_pre:
        x = norm_and_activate(graph, config, x, "norm", after_conv=False)
    pooled = global_pool(graph, x, "pooled", config.head_pool)
    if config.residual == "fixup":
        pooled = graph.binary("Add", pooled, graph.param("bias2"), name="bias2")
    return {**maps, "final": x, "pooled": pooled}


def _flat(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return arrays by path, with a subtree for every block and statistics next to the parameters of their norm."""
    flat: dict[str, np.ndarray] = {}
    for tree in variables.values():
        flat |= {path: np.asarray(leaf) for path, leaf in flatten_dict(layout.unstack(tree), sep="/").items()}
    return flat


def _model(
    graph: Graph, config: ResNetConfig, given: Input, outputs: Mapping[str, str], metadata: Mapping[str, str]
) -> Written:
    size = sum(array.nbytes for array in graph.constants.values())
    if size > MOST_BYTES:
        raise UsageError(f"the network has {size / 2**30:.1f} GiB of weights, and an ONNX file is smaller than 2 GiB")
    onnx, helper = graph.onnx, graph.onnx.helper
    sides = SIDES[config.spatial_dims] if given.any_sides else given.sides
    batch = BATCH if given.batch is None else given.batch
    shape = (config.in_channels, *sides) if given.pixels is None else (*sides, config.in_channels)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(given.pixels or "float32"))
    found = _output_shapes(config, given)
    nodes = [helper.make_node("Identity", [value], [name], name=f"{name}_") for name, value in outputs.items()]
    body = helper.make_graph(
        [*graph.nodes, *nodes],
        "resnet_jax",
        [helper.make_tensor_value_info(INPUT, kind, [batch, *shape])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch, *found[name]]) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="resnet_jax")
    model.ir_version = IR_VERSION
    if metadata:
        helper.set_model_props(model, dict(metadata))
    return Written(model, tuple(graph.weighted), tuple(outputs))


def _output_shapes(config: ResNetConfig, given: Input) -> dict[str, list[int | str]]:
    """Return the shape of one example of every output; sides that follow the input's have the same names."""
    model = ResNet(config)
    variables = abstract_variables(model, (*given.sides, config.in_channels))

    def shapes(factor: int) -> dict[str, tuple[int, ...]]:
        sides = (side // given.downscale * factor for side in given.sides)
        image = jax.ShapeDtypeStruct((1, *sides, config.in_channels), jnp.float32)
        found: Any = jax.eval_shape(lambda variables, x: model.apply(variables, x, train=False), variables, image)
        return {name: each.shape[1:] for name, each in (found if isinstance(found, dict) else {OUTPUT: found}).items()}

    once, twice, names = shapes(1), shapes(2) if given.any_sides else {}, SIDES[config.spatial_dims]
    described: dict[str, list[int | str]] = {}
    for name, shape in once.items():
        free = [size != other for size, other in zip(shape, twice.get(name, shape), strict=True)]
        described[name] = [names[at] if free[at] else size for at, size in enumerate(shape)]
        if name == OUTPUT and _of_pixels(config) and not given.any_sides:
            described[name][:-1] = given.sides
    return described


def _of_pixels(config: ResNetConfig) -> bool:
    """Return whether the only output is a map as large as the input."""
    return config.num_classes > 0 and config.head in ("fcn", "fpn", "aspp")
