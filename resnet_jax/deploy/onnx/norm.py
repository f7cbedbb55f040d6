"""Normalizations by name: the built-in ones, and the ONNX forms of those that you register."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from resnet_jax.deploy.onnx.activation import activate
from resnet_jax.deploy.onnx.graph import Graph
from resnet_jax.errors import UsageError
from resnet_jax.models.config import ResNetConfig
from resnet_jax.runtime.registry import Registry

#: A function from graph, choices, map, name of the node, and whether it directly follows a convolution, to the
#: normalized map. The parameters are in the scope of that name.
NormForm = Callable[[Graph, ResNetConfig, str, str, bool], str]

#: The ONNX form of every norm, by the name in :data:`resnet_jax.models.norms.NORMS`.
NORM_FORMS: Registry[NormForm] = Registry("ONNX form of norm")


def norm(graph: Graph, config: ResNetConfig, x: str, name: str, *, after_conv: bool = True) -> str:
    """Return the network's normalization called ``name``.

    Raises:
        UsageError: the norm is registered without an ONNX form.
    """
    if config.norm not in NORM_FORMS:
        raise UsageError(
            f"norm {config.norm} has no ONNX form: register one with "
            f"resnet_jax.deploy.onnx.norm.NORM_FORMS.register({config.norm!r})"
        )
    return NORM_FORMS[config.norm](graph, config, x, name, after_conv)


def norm_and_activate(
    graph: Graph, config: ResNetConfig, x: str, name: str, *, after_conv: bool = True, factor: float = 1.0
) -> str:
    """Return normalization and activation, times ``factor``; ``norm1`` is followed by ``act1``."""
    x = norm(graph, config, x, name, after_conv=after_conv)
    return activate(graph, config, x, name.replace("norm", "act"), factor)


@NORM_FORMS.register("batch")
def _batch(graph: Graph, config: ResNetConfig, x: str, name: str, after_conv: bool) -> str:
    with graph.scope(name):
        values = [graph.constant(part, graph.param(part)) for part in ("scale", "bias", "mean", "var")]
    return graph.node("BatchNormalization", x, *values, name=name, epsilon=config.norm_eps)


@NORM_FORMS.register("none")
def _none(graph: Graph, config: ResNetConfig, x: str, name: str, after_conv: bool) -> str:
    return x


@NORM_FORMS.register("folded")
def _folded(graph: Graph, config: ResNetConfig, x: str, name: str, after_conv: bool) -> str:
    return x if after_conv else _scaled(graph, config, x, name)


@NORM_FORMS.register("group")
def _group(graph: Graph, config: ResNetConfig, x: str, name: str, after_conv: bool) -> str:
    return _grouped(graph, config, x, name, config.norm_groups)


@NORM_FORMS.register("layer")
def _layer(graph: Graph, config: ResNetConfig, x: str, name: str, after_conv: bool) -> str:
    return _grouped(graph, config, x, name, 1)


@NORM_FORMS.register("instance")
def _instance(graph: Graph, config: ResNetConfig, x: str, name: str, after_conv: bool) -> str:
    with graph.scope(name):
        scale, bias = (graph.constant(part, graph.param(part)) for part in ("scale", "bias"))
    return graph.node("InstanceNormalization", x, scale, bias, name=name, epsilon=config.norm_eps)


def _grouped(graph: Graph, config: ResNetConfig, x: str, name: str, groups: int) -> str:
    """Group normalization as instance normalization of (N, groups, rest) with scale 1, followed by scale and bias."""
    with graph.scope(name):
        shape = graph.node("Shape", x, name="shape")
        flat = graph.node("Reshape", x, graph.integers("groups", (0, groups, -1)), name="flat")
        ones, zeros = graph.constant("ones", np.ones(groups)), graph.constant("zeros", np.zeros(groups))
        unit = graph.node("InstanceNormalization", flat, ones, zeros, name="unit", epsilon=config.norm_eps)
        x = graph.node("Reshape", unit, shape, name="back")
    return _scaled(graph, config, x, name)


def _scaled(graph: Graph, config: ResNetConfig, x: str, name: str) -> str:
    """Return ``x * scale + bias`` of every channel."""
    with graph.scope(name):
        scale, bias = (graph.constant(part, graph.per_channel(graph.param(part))) for part in ("scale", "bias"))
        x = graph.node("Mul", x, scale, name="scaled")
    return graph.node("Add", x, bias, name=name)
