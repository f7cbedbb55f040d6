"""Convolutions and linear layers with their effective weights: standardized, with their gain."""

from __future__ import annotations

from typing import assert_never

import jax.numpy as jnp
import numpy as np

from resnet_jax import ops
from resnet_jax.deploy.onnx.graph import Graph
from resnet_jax.models.config import ResNetConfig


def convolution(
    graph: Graph,
    config: ResNetConfig | None,
    x: str,
    name: str,
    strides: int = 1,
    *,
    groups: int = 1,
    dilation: int = 1,
    same: bool = True,
    node: str | None = None,
) -> str:
    """Return the convolution called ``name``, as :class:`resnet_jax.models.layers.Conv`.

    Window and channels are those of its kernel, and it has a bias if the network has one there.

    Args:
        graph: the graph to write to.
        config: the network's choices; None for a convolution without the network's weight standardization.
        x: a map.
        name: name of the layer.
        strides: stride, the same along every dimension.
        groups: channel groups.
        dilation: distance between the taps of the window.
        same: of an odd total padding, put the extra position after the map.
        node: name of the node, if a layer has several; None: the layer's name.
    """
    with graph.scope(name):
        kernel = graph.param("kernel")
        if config is not None:
            kernel = _standardized(graph, config, kernel)
        bias = graph.param("bias") if graph.has("bias") else None
    *window, _, _ = kernel.shape
    before, after = [], []
    for size in window:
        reach = dilation * (size - 1)
        first = reach // 2 if same else dilation * ((size - 1) // 2)
        before.append(first)
        after.append(reach - first if same else first)
    return graph.weight(
        name, "Conv", x, out_first(kernel), bias, node=node,
        kernel_shape=window, strides=[strides] * len(window), dilations=[dilation] * len(window), group=groups,
        pads=[*before, *after],
    )  # fmt: skip


def linear(graph: Graph, x: str, name: str) -> str:
    """Return a linear layer on vectors (N, C), with a bias."""
    with graph.scope(name):
        kernel, bias = graph.param("kernel"), graph.param("bias")
    return graph.weight(name, "Gemm", x, kernel.T, bias, transB=1)


def pointwise(graph: Graph, x: str, name: str) -> str:
    """Return a linear layer at every position of a map: a 1x1 convolution."""
    with graph.scope(name):
        kernel, bias = graph.param("kernel"), graph.param("bias")
    window = (1,) * graph.dims
    return graph.weight(name, "Conv", x, kernel.T.reshape(*kernel.T.shape, *window), bias, kernel_shape=window)


def out_first(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel (*window, I, O) in ONNX's order, (O, I, *window).

    >>> out_first(np.zeros((3, 5, 2, 7))).shape
    (7, 2, 3, 5)
    """
    dims = kernel.ndim - 2
    return kernel.transpose(dims + 1, dims, *range(dims))


def _standardized(graph: Graph, config: ResNetConfig, kernel: np.ndarray) -> np.ndarray:
    match config.standardizes:
        case "none":
            return kernel
        case "standard":
            return np.asarray(ops.standardize(jnp.asarray(kernel), config.ws_eps))
        case "scaled":
            return np.asarray(
                ops.scaled_standardize(jnp.asarray(kernel), jnp.asarray(graph.param("gain")), config.ws_eps)
            )
        case _:
            assert_never(config.standardizes)
