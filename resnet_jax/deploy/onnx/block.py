"""Residual blocks: branch, skip, and how the residual rule combines them."""

from __future__ import annotations

from resnet_jax.deploy.onnx.activation import activate
from resnet_jax.deploy.onnx.attention import attention
from resnet_jax.deploy.onnx.conv import convolution
from resnet_jax.deploy.onnx.graph import Graph
from resnet_jax.deploy.onnx.norm import norm, norm_and_activate
from resnet_jax.deploy.onnx.pooling import dilated_mean_2, mean_pool_2, padded
from resnet_jax.models.branches import branch_convs
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.plan import BlockSpec, projects


def write_block(graph: Graph, config: ResNetConfig, block: BlockSpec, x: str) -> str:
    """Return the output of a block, as :class:`resnet_jax.models.block.Block`. Call it within the scope of the
    block.
    """
    seen = x
    if config.is_pre:
        with graph.scope("preact"):
            beta = float(block.beta) if config.is_nf else 1.0
            seen = norm_and_activate(graph, config, x, "norm", after_conv=False, factor=beta)
    elif config.residual == "fixup":
        seen = graph.binary("Add", x, graph.param("bias1a"), name="bias1a")
    with graph.scope("branch"):
        y = _branch(graph, config, block, seen)
    if config.shortcut != "none":
        with graph.scope("shortcut"):
            skip = _shortcut(graph, config, block, x, seen)
        y = graph.node("Add", skip, y, name="sum")
    return y if config.is_pre else activate(graph, config, y, "act")


def _branch(graph: Graph, config: ResNetConfig, block: BlockSpec, x: str) -> str:
    convs, fixup = branch_convs(config, block), config.residual == "fixup"
    for number, spec in enumerate(convs, start=1):
        first, last = number == 1, number == len(convs)
        if config.is_pre and not first:
            x = norm_and_activate(graph, config, x, f"norm{number}")
        if fixup and not first:
            x = graph.binary("Add", x, graph.param(f"bias{number}a"), name=f"bias{number}a")
        x = convolution(graph, config, x, f"conv{number}", spec.strides, groups=spec.groups, dilation=spec.dilation)
        if fixup:
            if last:
                x = graph.binary("Mul", x, graph.param("scale"), name="scale")
            x = graph.binary("Add", x, graph.param(f"bias{number}b"), name=f"bias{number}b")
        if not config.is_pre and last:
            x = norm(graph, config, x, f"norm{number}")
        elif not config.is_pre:
            x = norm_and_activate(graph, config, x, f"norm{number}")
    x = attention(graph, config, x)
    return graph.multiplied(x, _factor(graph, config), name="gain")


def _factor(graph: Graph, config: ResNetConfig) -> float:
    """Return the factor by which the residual rule multiplies the branch."""
    factor = 2.0 if config.attention != "none" and config.is_nf else 1.0
    if config.residual in ("skipinit", "rezero", "nf_gain"):
        factor *= float(graph.param("gain"))
    return factor * config.alpha if config.is_nf else factor


def _shortcut(graph: Graph, config: ResNetConfig, block: BlockSpec, x: str, seen: str) -> str:
    if projects(config, block):
        strides = block.strides
        if config.shortcut == "D" and strides == 2:
            seen, strides = mean_pool_2(graph, seen, "pool"), 1
        elif config.shortcut == "D" and block.undone == 2:
            seen = dilated_mean_2(graph, seen, "pool", block.dilation_in)
        y = convolution(graph, config, seen, "conv", strides)
        return y if config.is_pre else norm(graph, config, y, "norm")
    if block.changes_shape:
        return _subsample_and_pad(graph, config, block, seen if config.residual == "fixup" else x)
    if config.shortcut == "B_norm":
        return norm(graph, config, x, "norm", after_conv=False)
    return x


def _subsample_and_pad(graph: Graph, config: ResNetConfig, block: BlockSpec, x: str) -> str:
    """Return every ``strides``-th position, padded with channels of zeros: option A."""
    dims, missing = graph.dims, block.features - block.in_features
    if block.strides != 1:
        starts, ends = graph.integers("starts", [0] * dims), graph.integers("ends", [2**31 - 1] * dims)
        axes, steps = graph.integers("axes", range(2, dims + 2)), graph.integers("steps", [block.strides] * dims)
        x = graph.node("Slice", x, starts, ends, axes, steps, name="subsample")
    if not missing:
        return x
    before = missing // 2 if config.shortcut == "A" else 0
    return padded(graph, x, "zeros", [0, before, *[0] * dims], [0, missing - before, *[0] * dims])
