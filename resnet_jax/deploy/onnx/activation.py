"""Activations, with the factors of the NF rules."""

from __future__ import annotations

import math
from typing import assert_never

from resnet_jax.deploy.onnx.graph import Graph
from resnet_jax.models.activation import GAINS
from resnet_jax.models.config import ResNetConfig


def activate(graph: Graph, config: ResNetConfig, x: str, name: str, factor: float = 1.0) -> str:
    """Return the network's activation of ``x``, times its gain (for an NF rule) and ``factor``."""
    gain = GAINS[config.activation] if config.is_nf else 1.0
    return graph.multiplied(_plain(graph, config, x, name), gain * factor, name=f"{name}/gain")


def _plain(graph: Graph, config: ResNetConfig, x: str, name: str) -> str:
    match config.activation:
        case "relu":
            return graph.node("Relu", x, name=name)
        case "leaky_relu":
            return graph.node("LeakyRelu", x, name=name, alpha=0.01)
        case "elu":
            return graph.node("Elu", x, name=name)
        case "tanh":
            return graph.node("Tanh", x, name=name)
        case "silu":
            return graph.node("Mul", x, graph.node("Sigmoid", x, name=f"{name}/sigmoid"), name=name)
        case "gelu_erf":
            with graph.scope(name):
                inner = graph.node("Erf", graph.binary("Mul", x, math.sqrt(0.5), name="scaled"), name="erf")
            return _half(graph, x, inner, name)
        case "gelu":
            with graph.scope(name):
                cube = graph.node("Mul", graph.node("Mul", x, x, name="square"), x, name="cube")
                inner = graph.node("Add", x, graph.binary("Mul", cube, 0.044715, name="scaled"), name="sum")
                inner = graph.binary("Mul", inner, math.sqrt(2 / math.pi), name="argument")
                inner = graph.node("Tanh", inner, name="tanh")
            return _half(graph, x, inner, name)
        case _:
            assert_never(config.activation)


def _half(graph: Graph, x: str, inner: str, name: str) -> str:
    """Return ``x / 2 * (1 + inner)``."""
    with graph.scope(name):
        one_more = graph.binary("Add", inner, 1.0, name="one_more")
        half = graph.binary("Mul", x, 0.5, name="half")
    return graph.node("Mul", half, one_more, name=name)
