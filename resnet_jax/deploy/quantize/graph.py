"""Which tensors of an ONNX graph are quantized, and which of them share a scale.

The graph is that of a folded network: convolutions with a bias, a linear layer, additions, pools, and operations that
move values without changing them. It may come from anywhere; nothing here depends on this package's networks.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

LINEAR = {"Conv": 1, "Gemm": 1, "MatMul": 1}
"""Operations with weights, and the index of the input that holds them if it is a constant."""
SUMS = ("Add", "Mul", "GlobalAveragePool", "AveragePool")
"""Operations without weights that runtimes also compute in 8 bits if none of their inputs is constant."""
MOVES = (
    "Transpose", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Slice", "MaxPool", "GlobalMaxPool", "Pad", "Identity",
)  # fmt: skip
"""Operations that move values or drop some; the output has the scale of the input."""


@dataclasses.dataclass(frozen=True)
class Index:
    """The producer and the consumers of each tensor of a graph.

    Attributes:
        maker: the node that produces each tensor.
        takers: the nodes that consume each tensor.
        constants: initializers by name.
        inputs: inputs of the graph, without initializers.
        outputs: outputs of the graph.
    """

    maker: dict[str, Any]
    takers: dict[str, list[Any]]
    constants: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, graph: Any) -> Index:
        """Read a GraphProto."""
        takers: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                takers[name].append(node)
        constants = {tensor.name: tensor for tensor in graph.initializer}
        return cls(
            {name: node for node in graph.node for name in node.output},
            dict(takers),
            constants,
            tuple(value.name for value in graph.input if value.name not in constants),
            tuple(value.name for value in graph.output),
        )

    def is_linear(self, node: Any) -> bool:
        """Return whether a node is a convolution or a linear layer with constant weights."""
        return node.op_type in LINEAR and node.input[LINEAR[node.op_type]] in self.constants

    def computed(self, node: Any) -> list[str]:
        """Return the inputs of a node that are computed rather than constant."""
        return [name for name in node.input if name and name not in self.constants]


@dataclasses.dataclass(frozen=True)
class Sites:
    """What to quantize.

    Attributes:
        linear: convolutions and linear layers, whose weights and input are quantized.
        tensors: every quantized tensor, in graph order, with the tensor whose scale it uses: itself, or one that it
            holds a subset of the values of.
        left: number of operations that stay in float, by name: norms, activations other than ReLU, and so on.
    """

    linear: tuple[Any, ...]
    tensors: dict[str, str]
    left: dict[str, int]

    @property
    def calibrated(self) -> tuple[str, ...]:
        """The tensors whose range must be measured."""
        return tuple(dict.fromkeys(self.tensors.values()))


def find_sites(graph: Any) -> Sites:
    """Find the parts of a graph that can be computed in 8 bits.

    Quantized are the input and output of every convolution and linear layer with constant weights, of mean pools, and
    of sums and products of two tensors that are computed separately. That includes a sum with the skip and a product
    with attention weights, but not the internals of an activation. A ReLU belongs to the operation before it. Tensors
    that no such operation consumes, such as the outputs, stay in float.

    Args:
        graph: a GraphProto.
    """
    index = Index.of(graph)
    linear = tuple(node for node in graph.node if index.is_linear(node))
    integer = {id(node) for node in linear}
    for node in graph.node:
        if node.op_type in SUMS and len(index.computed(node)) == len(node.input):
            sources = [_sources(index, name, integer) for name in node.input]
            if len(sources) == 1 or not sources[0] & sources[1]:
                integer.add(id(node))
    needed: set[str] = set()  # by an integer operation, directly or later
    for node in reversed(graph.node):
        if id(node) in integer or needed & set(node.output):
            needed |= {*index.computed(node)}
    wanted: set[str] = set()
    for node in graph.node:
        if id(node) in integer:
            wanted |= {*index.computed(node), *({_finished(index, node)} & needed)}
    wanted -= {""}
    for node in reversed(graph.node):  # tensors that are moved are quantized before the move
        if node.op_type in MOVES and node.output[0] in wanted and node.input[0] not in index.constants:
            wanted.add(node.input[0])
    scale_of: dict[str, str] = {}
    for name in [*index.inputs, *(name for node in graph.node for name in node.output)]:
        maker = index.maker.get(name)
        if name in wanted:
            source = str(maker.input[0]) if maker is not None and maker.op_type in MOVES else name
            scale_of[str(name)] = scale_of.get(source, str(name))
    left: dict[str, int] = defaultdict(int)
    for node in graph.node:
        finishes = node.op_type == "Relu" and id(index.maker.get(node.input[0])) in integer
        if id(node) not in integer and not finishes and node.op_type not in (*MOVES, "Shape"):
            left[node.op_type] += 1
    return Sites(linear, scale_of, dict(left))


def _sources(index: Index, name: str, integer: set[int]) -> set[str]:
    """Return the tensors from which float operations compute a tensor: outputs of integer operations, and inputs."""
    found, waiting, seen = set(), [name], set()
    while waiting:
        name = waiting.pop()
        maker = index.maker.get(name)
        if maker is None or id(maker) in integer:
            found.add(name)
        elif name not in seen:
            seen.add(name)
            waiting += index.computed(maker)
    return found


def _finished(index: Index, node: Any) -> str:
    """Return the output of a node, or that of the ReLU if it is the only consumer."""
    name = node.output[0]
    takers = index.takers.get(name, [])
    if len(takers) == 1 and takers[0].op_type == "Relu" and name not in index.outputs:
        return takers[0].output[0]
    return name
