"""Smaller files of the same float network: weights in 8 bits or bfloat16, computed in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from resnet_jax.deploy.quantize.graph import LINEAR, Index
from resnet_jax.deploy.quantize.qdq import (
    MOST_WEIGHT,
    Writer,
    finished_model,
    output_axis,
    quantized_weights,
    weight_scales as _scales,
)


def int8_weights(model: Any, most_weight: int = MOST_WEIGHT) -> Any:
    """Return the graph with the weights of convolutions and linear layers in int8, one scale per channel.

    Args:
        model: a ModelProto of a float graph; it is not modified.
        most_weight: steps from 0 to the largest weight of a channel.
    """
    index, writer = Index.of(model.graph), Writer()
    made: dict[str, Any] = {}
    for node in model.graph.node:
        if not index.is_linear(node):
            continue
        name, axis = node.input[LINEAR[node.op_type]], output_axis(node)
        if name not in made:
            weights = _array(index, name)
            scales = _scales(weights, axis, most_weight)
            made[name] = writer.dequantize(name, quantized_weights(weights, scales, axis), scales, axis)
    return _replaced(model, made, writer)


def bfloat16_weights(model: Any) -> Any:
    """Return the graph with the weights of convolutions and linear layers rounded to bfloat16.

    Args:
        model: a ModelProto of a float graph; it is not modified.
    """
    from onnx import TensorProto, helper

    index, writer = Index.of(model.graph), Writer()
    made: dict[str, Any] = {}
    for node in model.graph.node:
        if index.is_linear(node):
            name = node.input[LINEAR[node.op_type]]
            array = _array(index, name)
            halves = helper.make_tensor(
                f"{name}_bfloat16", TensorProto.BFLOAT16, array.shape, _upper_halves(array).tobytes(), raw=True
            )
            if name not in made:
                writer.initializers.append(halves)
                made[name] = helper.make_node(
                    "Cast", [halves.name], [f"{name}_float"], name=f"{name}_cast", to=TensorProto.FLOAT
                )
    return _replaced(model, made, writer)


def _upper_halves(array: np.ndarray) -> np.ndarray:
    """Return float32 values as the bits of the nearest bfloat16, with ties to even.

    >>> [hex(bits) for bits in _upper_halves(np.array([1.0, 1.00390625, 1.01171875], np.float32)).tolist()]
    ['0x3f80', '0x3f80', '0x3f82']
    """
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _array(index: Index, name: str) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(index.constants[name])


def _replaced(model: Any, made: dict[str, Any], writer: Writer) -> Any:
    """Return the model with other nodes instead of constants."""
    nodes = list(made.values())
    for node in model.graph.node:
        copy = type(node)()
        copy.CopyFrom(node)
        for position, name in enumerate(copy.input):
            if name in made:
                copy.input[position] = made[name].output[0]
        nodes.append(copy)
    return finished_model(model, nodes, writer)
