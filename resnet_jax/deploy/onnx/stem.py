"""From the input to the first block, and the start of stages."""

from __future__ import annotations

from typing import assert_never

from resnet_jax.deploy.onnx.activation import activate
from resnet_jax.deploy.onnx.conv import convolution
from resnet_jax.deploy.onnx.graph import Graph
from resnet_jax.deploy.onnx.norm import norm_and_activate
from resnet_jax.deploy.onnx.pooling import max_pool, padded
from resnet_jax.models import paths
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.plan import stem_widths


def write_stem(graph: Graph, config: ResNetConfig, x: str) -> str:
    """Return the stem's map, as :class:`resnet_jax.models.resnet.Stem`. Call it within the scope of the stem."""
    if config.stem == "none":
        return x
    if config.stem == "whiten":
        x = convolution(graph, None, x, paths.WHITEN, same=False)
        return x if config.is_pre else activate(graph, config, x, "act")
    count = len(stem_widths(config))
    for index in range(count):
        number = "" if count == 1 else str(index + 1)
        x = convolution(graph, config, x, f"conv{number}", _stride(config, index))
        if config.residual == "fixup" and count == 1:
            x = graph.binary("Add", x, graph.param("bias1"), name="bias1")
        if not (config.is_pre and index == count - 1):
            x = norm_and_activate(graph, config, x, f"norm{number}")
    return x if config.stem_stride == 1 else _pool(graph, config, x)


def write_transition(graph: Graph, config: ResNetConfig, x: str) -> str:
    """Return the map at the start of a stage: a convolution, a 2x2 max pool, norm and activation."""
    x = max_pool(graph, convolution(graph, config, x, "conv"), "pool", window=2, stride=2)
    return x if config.is_pre else norm_and_activate(graph, config, x, "norm", after_conv=False)


def _stride(config: ResNetConfig, index: int) -> int:
    match config.stem:
        case "waveform":
            return 4
        case "imagenet":
            return 2
        case "cifar":
            return 1
        case _:
            return 2 if index == 0 else 1


def _pool(graph: Graph, config: ResNetConfig, x: str) -> str:
    if config.stem == "waveform":
        return max_pool(graph, x, "pool", window=4, stride=4)
    match config.stem_pool:
        case "conv":
            x = convolution(graph, config, x, "pool_conv", 2)
            return x if config.is_pre else norm_and_activate(graph, config, x, "pool_norm")
        case "zero_max":
            edge = [0, 0, *[1] * graph.dims]
            return max_pool(graph, padded(graph, x, "pool_zeros", edge, edge), "pool", window=3, stride=2)
        case "max":
            return max_pool(graph, x, "pool", window=3, stride=2, padding=1)
        case _:
            assert_never(config.stem_pool)
