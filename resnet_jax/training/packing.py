"""Packing similar leaves of a state into a few long vectors: fewer, larger operations on a GPU.

An optimizer goes over its parameters one by one, and a GPU launches several kernels for each: for the update, the norm,
and the check for non-finite values. A ResNet-50 has 161 parameters. Most optimizers treat all elements of all
parameters by one formula, with constants that differ only between a few groups of parameters (whether they decay, the
factor of their rate). :class:`Packing` puts the leaves of a group into one vector, within the original tree: the vector
takes the place of the first leaf, and an empty array the place of each of the others. So anything that goes over a tree
leaf by leaf, including an optimizer with masks by path, works on the packed tree unchanged.

>>> params = {"a": jnp.ones((2, 2)), "b": jnp.zeros(3), "c": jnp.ones(1)}
>>> packing = Packing.of(params, {"a": "kernel", "b": "kernel", "c": None})
>>> packed = packing.pack(params)
>>> jax.tree.map(jnp.shape, packed)
{'a': (7,), 'b': (0,), 'c': (1,)}
>>> jax.tree.map(jnp.shape, packing.unpack(packed, params))
{'a': (2, 2), 'b': (3,), 'c': (1,)}
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any
Path = tuple[str, ...]

#: Leaves per vector: with momentum and gradient, three arrays per leaf are read, and XLA makes no kernel with more than
#: 96 operands and results.
MEMBERS = 44


class ElementwiseTransformation(optax.GradientTransformation):
    """A transformation whose update of an element depends only on that element, on scalars, and on its leaf's label.

    Attributes:
        labels: tree of the parameters with a label for each: leaves with the same label have the same constants. None
            for leaves that are unlike all others.
    """

    labels: PyTree

    @classmethod
    def of(cls, tx: optax.GradientTransformation, labels: PyTree) -> ElementwiseTransformation:
        """Return ``tx`` with its labels."""
        self = cls(tx.init, tx.update)
        self.labels = labels
        return self


@dataclasses.dataclass(frozen=True)
class Packing:
    """Which leaves are packed together.

    Attributes:
        groups: paths of the leaves of each group.
        shapes: shapes of the leaves, by path.
    """

    groups: tuple[tuple[Path, ...], ...]
    shapes: dict[Path, tuple[int, ...]]

    @classmethod
    def of(cls, tree: PyTree, labels: PyTree) -> Packing:
        """Return the packing of a tree.

        Args:
            tree: arrays or their shapes.
            labels: the same tree with a label for each leaf, which must itself be a leaf, such as a string. Leaves with
                the same label and dtype are packed together, up to :data:`MEMBERS` of them; those with None stay
                unchanged.
        """
        alike: dict[Hashable, list[Path]] = {}
        shapes: dict[Path, tuple[int, ...]] = {}
        labelled = jax.tree_util.tree_leaves_with_path(labels, is_leaf=lambda node: node is None)
        of_path = {_names(path): label for path, label in labelled}
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            names = _names(path)
            shapes[names] = tuple(leaf.shape)
            label = of_path.get(names)
            if label is not None:
                alike.setdefault((label, jnp.dtype(leaf.dtype)), []).append(names)
        groups = []
        for paths in alike.values():
            count = math.ceil(len(paths) / MEMBERS)
            size = math.ceil(len(paths) / count)
            groups += [tuple(paths[at : at + size]) for at in range(0, len(paths), size)]
        return cls(tuple(group for group in groups if len(group) > 1), shapes)

    def pack(self, tree: PyTree) -> PyTree:
        """Return a tree packed. This works on any tree that contains trees with the same paths, such as an optimizer
        state.

        Leaves with other paths or shapes, or from an incomplete group, stay unchanged.
        """
        leaves, treedef = jax.tree.flatten(tree)
        for members in self._found(tree):
            vector = jnp.concatenate([leaves[i].ravel() for i in members])
            for i in members:
                leaves[i] = jnp.zeros((0,), leaves[i].dtype)
            leaves[members[0]] = vector
        return jax.tree.unflatten(treedef, leaves)

    def unpack(self, packed: PyTree, like: PyTree) -> PyTree:
        """Return the original of a packed tree.

        Args:
            packed: a tree with the structure of ``like``.
            like: the original tree, or its shapes.
        """
        leaves, treedef = jax.tree.flatten(packed)
        shapes = [leaf.shape for leaf in jax.tree.leaves(like)]
        for members in self._found(like):
            vector, at = leaves[members[0]], 0
            for i in members:
                size = math.prod(shapes[i])
                leaves[i] = vector[at : at + size].reshape(shapes[i])
                at += size
        return jax.tree.unflatten(treedef, leaves)

    def _found(self, tree: PyTree) -> list[list[int]]:
        """Return, for each group and each place in the tree that contains it, the indices of its leaves."""
        group_of = {path: number for number, group in enumerate(self.groups) for path in group}
        lengths = sorted({len(path) for path in group_of}, reverse=True)
        found: dict[tuple[int, Path, Any], dict[Path, int]] = {}
        for index, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree)):
            names = _names(path)
            for length in lengths:
                end = names[len(names) - length :]
                if end in group_of and tuple(leaf.shape) == self.shapes[end]:
                    where = group_of[end], names[: len(names) - length], leaf.dtype
                    found.setdefault(where, {})[end] = index
                    break
        return [
            [by_path[path] for path in self.groups[number]]
            for (number, *_), by_path in found.items()
            if len(by_path) == len(self.groups[number])
        ]


def _names(path: Sequence[Any]) -> Path:
    return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
