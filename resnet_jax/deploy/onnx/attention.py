"""Channel attention: squeeze-and-excitation, and efficient channel attention."""

from __future__ import annotations

from typing import assert_never

from resnet_jax.deploy.onnx.conv import linear, out_first
from resnet_jax.deploy.onnx.graph import Graph
from resnet_jax.deploy.onnx.pooling import global_pool
from resnet_jax.models.config import ResNetConfig


def attention(graph: Graph, config: ResNetConfig, x: str) -> str:
    """Return ``x`` with its channels weighted by the network's attention, or ``x`` itself without attention."""
    match config.attention:
        case "none":
            return x
        case "se":
            with graph.scope("se"):
                weights = graph.node("Relu", linear(graph, _pooled(graph, x), "reduce"), name="act")
                weights = graph.node("Sigmoid", linear(graph, weights, "expand"), name="sigmoid")
                return _weighted(graph, x, weights)
        case "eca":
            with graph.scope("eca"):
                signal = graph.node("Unsqueeze", _pooled(graph, x), graph.integers("middle", [1]), name="signal")
                with graph.scope("conv"):
                    kernel = graph.param("kernel")
                reach = (len(kernel) - 1) // 2
                weights = graph.weight("conv", "Conv", signal, out_first(kernel), None, pads=[reach, reach])
                weights = graph.node("Squeeze", weights, graph.integers("one", [1]), name="weights")
                return _weighted(graph, x, graph.node("Sigmoid", weights, name="sigmoid"))
        case _:
            assert_never(config.attention)


def _pooled(graph: Graph, x: str) -> str:
    return global_pool(graph, x, "pool", "mean")


def _weighted(graph: Graph, x: str, weights: str) -> str:
    """Return a map times weights (N, C)."""
    axes = graph.integers("axes", range(2, graph.dims + 2))
    return graph.node("Mul", x, graph.node("Unsqueeze", weights, axes, name="expanded"), name="out")
