"""An ONNX graph under construction: nodes and constants, named by the paths of the network's modules.

Maps are (N, C, *spatial), as in ONNX. A value is a string, the name of the node that produces it: node
``stage1/block0/branch/conv1`` outputs ``stage1/block0/branch/conv1``, and its constants are called
``stage1/block0/branch/conv1/weight`` and so on. Names are therefore the same whenever the same network is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from resnet_jax.deploy.packages import package
from resnet_jax.errors import UsageError

#: Versions of the operator set and of the file. ONNX Runtime reads them from 1.14 on, OpenVINO from 2023.0.
OPSET, IR_VERSION = 18, 8


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A node with a trained weight: a convolution or a linear layer.

    Attributes:
        name: name of the node and of its output.
        op: ``Conv`` or ``Gemm``.
        weight: name of the constant, (O, I / groups, *window) or, for Gemm, (O, I): output channels come first.
        bias: name of the constant (O,), or None.
    """

    name: str
    op: str
    weight: str
    bias: str | None


class Graph:
    """Nodes and constants, and the parameters they are made from.

    Args:
        variables: arrays of the network by path, without the collection: ``stem/conv/kernel``, ``stem/norm/mean``.
        dims: number of spatial dimensions of the maps.
    """

    def __init__(self, variables: Mapping[str, np.ndarray], dims: int) -> None:
        self.onnx, self.dims = package("onnx", "writing ONNX"), dims
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.weighted: list[Weighted] = []
        self._variables, self._used = dict(variables), set[str]()
        self._scopes: list[str] = []
        self._names: set[str] = set()

    @contextlib.contextmanager
    def scope(self, *names: str) -> Iterator[None]:
        """Prefix the names of all nodes, constants and parameters within the ``with`` block."""
        self._scopes.extend(names)
        try:
            yield
        finally:
            del self._scopes[len(self._scopes) - len(names) :]

    def path(self, name: str) -> str:
        """Return the full name of something in the current scope."""
        return "/".join([*self._scopes, name])

    def has(self, name: str) -> bool:
        """Return whether the network has a parameter of this name in the current scope."""
        return self.path(name) in self._variables

    def param(self, name: str) -> np.ndarray:
        """Return a parameter or statistic, float32.

        Raises:
            UsageError: the network has no parameter of this name.
        """
        path = self.path(name)
        if path not in self._variables:
            raise UsageError(f"the network has no parameter {path}: its variables are not those of its configuration")
        self._used.add(path)
        return np.asarray(self._variables[path], np.float32)

    def unused(self) -> list[str]:
        """Return the parameters that nothing has used."""
        return sorted(set(self._variables) - self._used)

    def node(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add a node with one output; return the output's name.

        Args:
            op: the operator.
            *inputs: values; empty ones are omitted.
            name: name of the node within the scope.
            **attributes: attributes of the operator; None omits one.
        """
        path = self.path(name)
        if path in self._names:
            raise AssertionError(f"two nodes are called {path}")
        self._names.add(path)
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [path], name=path, **kept))
        return path

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Add a constant; return its name. The same constant may be added several times."""
        path, array = self.path(name), np.asarray(value, dtype, order="C")
        if not np.array_equal(self.constants.setdefault(path, array), array):
            raise AssertionError(f"two constants are called {path}")
        return path

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Add an int64 constant, such as axes and shapes."""
        return self.constant(name, np.asarray(values), np.int64)

    def binary(self, op: str, x: str, value: Any, *, name: str) -> str:
        """Return ``op(x, value)`` with a constant, such as ``Mul`` by a factor."""
        return self.node(op, x, self.constant(f"{name}/value", value), name=name)

    def per_channel(self, values: np.ndarray) -> np.ndarray:
        """Return values (C,) in a shape that broadcasts to maps (N, C, *spatial)."""
        return np.asarray(values).reshape(-1, *(1,) * self.dims)

    def multiplied(self, x: str, factor: float, *, name: str) -> str:
        """Return ``x`` times a number, or ``x`` itself if that is 1."""
        return x if factor == 1.0 else self.binary("Mul", x, factor, name=name)

    def weight(
        self,
        name: str,
        op: str,
        x: str,
        weight: np.ndarray,
        bias: np.ndarray | None,
        *,
        node: str | None = None,
        **attributes: Any,
    ) -> str:
        """Add a convolution or a linear layer, and record it in :attr:`weighted`.

        Args:
            name: name of the layer, the prefix of its constants' names.
            op: ``Conv`` or ``Gemm``.
            x: the input.
            weight: output channels first.
            bias: (O,), or None.
            node: name of the node, if a layer has several; None: the layer's name.
            **attributes: attributes of the operator.
        """
        constants = [self.constant(f"{name}/weight", weight)]
        if bias is not None:
            constants.append(self.constant(f"{name}/bias", bias))
        made = self.node(op, x, *constants, name=node or name, **attributes)
        self.weighted.append(Weighted(made, op, constants[0], constants[1] if bias is not None else None))
        return made
