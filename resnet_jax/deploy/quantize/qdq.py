"""Convert a float ONNX file to 8 bits with pairs of QuantizeLinear and DequantizeLinear that a runtime fuses to
integers.

    q = clip(round(x / s) + z),    x' = s (q - z)

Activations are uint8 with a zero point and one scale per tensor. Weights are int8 centered at 0, with one scale per
output channel (Jacob et al. 2018, arXiv 1712.05877; Krishnamoorthi 2018, arXiv 1806.08342). Biases are int32 at the
scale of input times weights, which adds no error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resnet_jax.deploy.quantize.graph import LINEAR, Index, Sites, find_sites
from resnet_jax.deploy.quantize.ranges import Range

MOST_WEIGHT = 127
"""Largest int8 weight of either sign; -128 is not used, so that the scale is symmetric."""


def weight_scales(weights: np.ndarray, axis: int, most: int = MOST_WEIGHT) -> np.ndarray:
    """Return the scale of every channel: its largest magnitude over ``most``, or 1 if all values are 0.

    >>> weight_scales(np.array([[254.0, -127.0], [0.0, 0.0]]), 0).tolist()
    [2.0, 1.0]
    """
    largest = np.abs(weights).max(axis=tuple(d for d in range(weights.ndim) if d != axis)).astype(np.float32)
    return np.where(largest > 0, largest / np.float32(most), np.float32(1)).astype(np.float32)


def quantized_weights(weights: np.ndarray, scales: np.ndarray, axis: int) -> np.ndarray:
    """Return the weights as int8, in steps of their channel's scale."""
    shape = [-1 if dim == axis else 1 for dim in range(weights.ndim)]
    return np.clip(np.rint(weights / scales.reshape(shape)), -MOST_WEIGHT, MOST_WEIGHT).astype(np.int8)


def quantize_model(
    model: Any, ranges: Mapping[str, Range], *, most_weight: int = MOST_WEIGHT, sites: Sites | None = None
) -> Any:
    """Return the graph with everything that :func:`.find_sites` finds quantized.

    Args:
        model: a ModelProto of a float graph, operator set 13 or later; it is not modified.
        ranges: the range of every tensor in ``sites.calibrated``.
        most_weight: 127, or 63 for processors whose 8-bit products saturate (AVX2 and AVX-512 without VNNI).
        sites: what to quantize, if already known.
    """
    graph = model.graph
    sites = find_sites(graph) if sites is None else sites
    index, writer, channels = Index.of(graph), Writer(), _channels(model)
    linear = {node.output[0] for node in sites.linear}

    def range_of(name: str) -> Range:
        return ranges[sites.tensors[name]]

    nodes: list[Any] = []
    for name in index.inputs:
        if name in sites.tensors:
            nodes += writer.pair(name, range_of(name))
    for original in graph.node:
        node = type(original)()
        node.CopyFrom(original)
        inputs = [f"{name}_dequantized" if name in sites.tensors else name for name in node.input]
        if node.op_type == "Pad" and node.output[0] in sites.tensors and range_of(node.output[0]).low < 0:
            weights, node = writer.padding_convolution(index, node, channels)
            nodes.append(weights)
            inputs = [inputs[0], node.input[1]]
        elif node.output[0] in linear:
            nodes += writer.weights(index, node, inputs, range_of(node.input[0]), most_weight)
        del node.input[:]
        node.input.extend(inputs)
        if _clipped_anyway(index, node, sites, ranges):
            nodes += writer.pair(node.output[0], range_of(node.output[0]), of=node.input[0])
            continue
        nodes.append(node)
        for name in node.output:
            if name in sites.tensors:
                nodes += writer.pair(name, range_of(name))
    return finished_model(model, nodes, writer)


def _clipped_anyway(index: Index, node: Any, sites: Sites, ranges: Mapping[str, Range]) -> bool:
    """Return whether a node is a ReLU before a quantization whose range starts at 0, which also clips negative values.

    ONNX Runtime adds in 8 bits only if nothing stands between the sum and its quantization.
    """
    return (
        node.op_type == "Relu"
        and node.output[0] in sites.tensors
        and node.output[0] not in index.outputs
        and ranges[sites.tensors[node.output[0]]].scale_and_zero()[1] == 0
    )


def finished_model(model: Any, nodes: Sequence[Any], writer: Writer) -> Any:
    """Return a model with other nodes and their constants; everything else, including metadata, stays.

    Args:
        model: the model; it is not modified.
        nodes: the nodes in order; constants of ``model`` that they use are kept.
        writer: holds further constants.
    """
    import onnx

    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    del graph.node[:]
    graph.node.extend(nodes)
    taken = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in taken]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *writer.initializers])
    del graph.value_info[:]
    onnx.checker.check_model(found)
    return found


def _channels(model: Any) -> dict[str, int]:
    """Return the number of channels, the second axis, of every map of a graph where it is known."""
    import onnx

    found = {}
    for value in onnx.shape_inference.infer_shapes(model).graph.value_info:
        dims = value.type.tensor_type.shape.dim
        if len(dims) > 2 and dims[1].HasField("dim_value"):
            found[value.name] = dims[1].dim_value
    return found


class Writer:
    """Creates nodes and keeps the constants that they need.

    Attributes:
        initializers: the constants.
    """

    def __init__(self) -> None:
        self.initializers: list[Any] = []
        self._names: set[str] = set()

    def constant(self, name: str, array: np.ndarray) -> str:
        """Store a constant once and return its name."""
        from onnx import numpy_helper

        if name not in self._names:  # weights that two nodes share
            self._names.add(name)
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def pair(self, name: str, range_: Range, of: str | None = None) -> list[Any]:
        """Return the two nodes that quantize a tensor (or ``of``) and restore it as ``{name}_dequantized``."""
        from onnx import helper

        scale, zero = range_.scale_and_zero()
        parameters = [
            self.constant(f"{name}_scale", np.array(scale, np.float32)),
            self.constant(f"{name}_zero", np.array(zero, np.uint8)),
        ]
        return [
            helper.make_node(
                "QuantizeLinear", [of or name, *parameters], [f"{name}_quantized"], name=f"{name}_quantize"
            ),
            helper.make_node(
                "DequantizeLinear",
                [f"{name}_quantized", *parameters],
                [f"{name}_dequantized"],
                name=f"{name}_dequantize",
            ),
        ]

    def weights(self, index: Index, node: Any, inputs: list[str], before: Range, most: int) -> list[Any]:
        """Return the nodes that produce weights and bias of a layer, and put their outputs into its ``inputs``."""
        from onnx import numpy_helper

        position = LINEAR[node.op_type]
        name = node.input[position]
        weights, axis = numpy_helper.to_array(index.constants[name]), output_axis(node)
        if len(index.takers[name]) > 1:  # towers share weights, and the bias may enlarge a scale
            name = f"{name}@{node.output[0]}"
        scales = weight_scales(weights, axis, most)
        bias_name = node.input[2] if len(node.input) > 2 else ""
        step = np.float32(before.scale_and_zero()[0])
        nodes = []
        if bias_name in index.constants:
            bias = numpy_helper.to_array(index.constants[bias_name]).astype(np.float64)
            scales = np.maximum(scales, (np.abs(bias) / (step * 2.0**30)).astype(np.float32))  # so that int32 holds it
            steps = (step * scales).astype(np.float32)
            values = np.rint(bias / steps).astype(np.int32)
            nodes.append(self.dequantize(f"{bias_name}@{node.output[0]}", values, steps, 0))
            inputs[2] = nodes[-1].output[0]
        nodes.append(self.dequantize(name, quantized_weights(weights, scales, axis), scales, axis))
        inputs[position] = nodes[-1].output[0]
        return nodes

    def padding_convolution(self, index: Index, node: Any, channels: Mapping[str, int]) -> tuple[Any, Any]:
        """Return weights and node of a 1x1 convolution that replaces padding around a map or of its channels.

        OpenVINO (2026.4) pads an 8-bit tensor with step 0 rather than with the step that represents 0. The two differ
        if there are negative values.
        """
        from onnx import helper, numpy_helper

        pads = numpy_helper.to_array(index.constants[node.input[1]]).tolist()
        dims, count = len(pads) // 2 - 2, channels[node.input[0]]
        before, after = pads[1], pads[len(pads) // 2 + 1]
        kernel = np.zeros((before + count + after, count, *(1,) * dims), np.int8)
        kernel[before + np.arange(count), np.arange(count)] = 1
        name = f"{node.output[0]}/identity"
        weights = self.dequantize(name, kernel, np.ones(len(kernel), np.float32), 0)
        around = [*pads[2 : dims + 2], *pads[dims + 4 :]]
        conv = helper.make_node("Conv", [node.input[0], weights.output[0]], node.output, name=node.name, pads=around)
        return weights, conv

    def dequantize(self, name: str, values: np.ndarray, scales: np.ndarray, axis: int) -> Any:
        """Return the node that multiplies integers by their channel's scale."""
        from onnx import helper

        zeros = np.zeros(scales.shape, values.dtype)
        parameters = [
            self.constant(f"{name}_quantized", values),
            self.constant(f"{name}_scale", scales),
            self.constant(f"{name}_zero", zeros),
        ]
        return helper.make_node(
            "DequantizeLinear", parameters, [f"{name}_dequantized"], name=f"{name}_dequantize", axis=axis
        )


def output_axis(node: Any) -> int:
    """Return the axis of a layer's weights that indexes its outputs."""
    if node.op_type == "Conv":
        return 0
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Gemm" and transposed else 1
