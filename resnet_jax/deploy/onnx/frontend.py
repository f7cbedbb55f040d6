"""Preprocessing before the stem: normalization of stored values, and the network's front end."""

from __future__ import annotations

import math

import numpy as np

from resnet_jax.deploy.onnx.graph import Graph
from resnet_jax.deploy.onnx.pooling import channels_first
from resnet_jax.models.config import ResNetConfig
from resnet_jax.ops.mel import FLOOR, TINY, mel_filters

_LEAST = float(np.finfo(np.float32).tiny)


def from_pixels(graph: Graph, x: str, dims: int, scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """Return ``(x / scale - mean) / std`` for stored values (N, *spatial, C), in ONNX's layout.

    It is one multiplication and one addition, whose constants are computed in float64.
    """
    with graph.scope("preprocessing"):
        x = graph.node("Cast", x, name="float", to=graph.onnx.TensorProto.FLOAT)
        x = channels_first(graph, x, "channels_first", dims)
        shape = (-1, *(1,) * dims)
        factor = 1.0 / (scale * np.asarray(std, np.float64))
        shift = -np.asarray(mean, np.float64) / np.asarray(std, np.float64)
        x = graph.binary("Mul", x, factor.reshape(shape), name="scaled")
        return graph.binary("Add", x, shift.reshape(shape), name="normalized")


def write_frontend(graph: Graph, config: ResNetConfig, x: str) -> str:
    """Return the input of the stem, as :func:`resnet_jax.models.frontend.apply_frontend`."""
    with graph.scope("frontend"):
        match config.frontend:
            case "none":
                return x
            case "standardize":
                return _standardized(graph, x, config.spatial_dims)
            case "one_hot":
                whole = graph.node("Round", x, name="round")
                symbols = np.arange(config.symbols).reshape(-1, *(1,) * config.spatial_dims)
                same = graph.node("Equal", whole, graph.constant("symbols", symbols), name="same")
                return graph.node("Cast", same, name="one_hot", to=graph.onnx.TensorProto.FLOAT)
            case "log_mel":
                return _standardized(graph, _log_mel(graph, config, x), 2)


def _standardized(graph: Graph, x: str, dims: int) -> str:
    """Return ``x`` minus its mean, divided by its standard deviation, over all positions; constant inputs become 0."""
    axes = graph.integers("axes", range(2, dims + 2))
    centred = graph.node("Sub", x, graph.node("ReduceMean", x, axes, name="mean"), name="centred")
    square = graph.node("Mul", centred, centred, name="square")
    variance = graph.node("ReduceMean", square, axes, name="variance")
    least = graph.constant("least", _LEAST)
    deviation = graph.node("Sqrt", graph.node("Max", variance, least, name="not_zero"), name="deviation")
    unit = graph.node("Div", centred, deviation, name="unit")
    varies = graph.node("Greater", variance, least, name="varies")
    return graph.node("Where", varies, unit, graph.constant("zero", 0.0), name="standardized")


def _log_mel(graph: Graph, config: ResNetConfig, x: str) -> str:
    """Return log-mel spectrograms (N, C, time, bands) of signals (N, C, L), as :func:`resnet_jax.ops.log_mel`.

    The Fourier transform of windows is a convolution whose filters are the window times cosines and sines.
    """
    window, bands = config.mel_window, config.mel_bands
    size, half = 1 << (window - 1).bit_length(), window // 2
    bins = size // 2 + 1
    samples = np.arange(window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * samples / window)
    angle = 2 * np.pi * (np.arange(bins)[:, None] * samples[None] % size) / size
    waves = np.concatenate([np.cos(angle), np.sin(angle)])[:, None] * hann
    with graph.scope("log_mel"):
        signals = graph.node("Reshape", x, graph.integers("apart", (-1, 1, 0)), name="signals")
        found = graph.node(
            "Conv", signals, graph.constant("waves", waves), name="fourier", kernel_shape=[window],
            strides=[config.mel_hop], pads=[half, window - half],
        )  # fmt: skip
        square = graph.node("Mul", found, found, name="square")
        filters = mel_filters(config.mel_rate, size, bands).T
        power = graph.node("MatMul", graph.constant("filters", np.tile(filters, 2)), square, name="power")
        times = graph.node("Shape", power, name="times", start=2)
        shape = graph.node(
            "Concat", graph.integers("first", (-1, config.in_channels, bands)), times, name="shape", axis=0
        )
        power = graph.node("Reshape", power, shape, name="by_channel")
        power = graph.node("Transpose", power, name="by_time", perm=[0, 1, 3, 2])
        largest = graph.node("ReduceMax", power, graph.integers("all", (1, 2, 3)), name="largest")
        floor = graph.node(
            "Max", graph.binary("Mul", largest, FLOOR, name="share"), graph.constant("tiny", TINY), name="floor"
        )
        log = graph.node("Log", graph.node("Max", power, floor, name="floored"), name="log")
        return graph.binary("Mul", log, 10.0 / math.log(10.0), name="decibels")
