"""Two layouts of the same variables: a subtree for every block, or equal blocks stacked along a leading axis.

The first block of a stage stands alone because it may change the shape. All others are equal, so for a stage of n
blocks:

===========  ===================================================  ==========================
layout       names in ``stage1``                                  leaves
===========  ===================================================  ==========================
listed       ``block0``, ``block1``, ..., ``block{n-1}``          ``(...)``
stacked      ``block0``, ``blocks``                               ``(n - 1, ...)`` in ``blocks``
===========  ===================================================  ==========================

A network keeps its variables in the layout that its ``execution`` computes with: a scanned stage is stacked. Files
always use the layout of ``execution="auto"``, whatever wrote them. Names that people see (roles, freezing, diagnostics,
other libraries' weights) are those of the listed layout.

All functions here also accept whole states: any pytree that contains such dictionaries, of arrays or of their shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from resnet_jax.models.choices import ExecutionChoice
from resnet_jax.models.paths import STACK, TRANSITION, block_index, block_name, parse, stage_index

PyTree = Any

#: Number of equal blocks from which on a stage is stacked, by ``execution``. Fewer blocks compile as fast one by one
#: and run without copies. The number for ``auto`` is part of the file format.
LEAST: dict[ExecutionChoice, int | None] = {"auto": 8, "scan": 2, "unroll": None}


def stacks(execution: ExecutionChoice, blocks: int) -> bool:
    """Return whether a stage with this many blocks is stacked.

    >>> stacks("auto", 9), stacks("auto", 8), stacks("scan", 3), stacks("unroll", 200)
    (True, False, True, False)
    """
    least = LEAST[execution]
    return least is not None and blocks - 1 >= least


def stack(tree: PyTree, execution: ExecutionChoice = "auto", *, axis: int = 0) -> PyTree:
    """Return ``tree``, given in any layout, in the layout of ``execution``.

    Args:
        tree: variables, or a state.
        execution: the execution whose layout to use.
        axis: axis of the blocks in a stacked leaf. Use 1 in a population, whose first axis is the members.

    >>> stage = {f"block{i}": {"bias": np.full(2, i)} for i in range(3)}
    >>> stacked = stack({"stage1": stage}, "scan")
    >>> sorted(stacked["stage1"]), stacked["stage1"]["blocks"]["bias"].tolist()
    (['block0', 'blocks'], [[1, 1], [2, 2]])
    >>> stack(stacked, "unroll")["stage1"]["block2"]["bias"].tolist()
    [2, 2]
    """

    def convert(stage: PyTree) -> PyTree:
        if not _is_stage(stage):
            return stage
        if STACK in stage:
            size = _length(stage[STACK], axis)
            if size is None or stacks(execution, size + 1):
                return stage
            return _listed(stage, [block_name(index) for index in range(1, size + 1)], axis)
        return _stacked(stage, axis) if stacks(execution, len(_rest(stage)) + 1) else stage

    return jax.tree.map(convert, tree, is_leaf=_is_stage)


def unstack(tree: PyTree) -> PyTree:
    """Return ``tree`` in the listed layout, with a subtree for every block."""
    return stack(tree, "unroll")


#: The same two functions under their public names, such as ``resnet_jax.stack_blocks``.
stack_blocks, unstack_blocks = stack, unstack


def like(tree: PyTree, example: PyTree, *, axis: int = 0) -> PyTree:
    """Return ``tree`` in the layout of ``example``, which has the same leaves in either layout; see :func:`stack`."""

    def convert(example: PyTree, stage: PyTree) -> PyTree:
        if not _is_stage(example) or (STACK in example) == (STACK in stage):
            return stage
        return _stacked(stage, axis) if STACK in example else _listed(stage, _rest(example), axis)

    return jax.tree.map(convert, example, tree, is_leaf=_is_stage)


def is_stacked(path: str) -> bool:
    """Return whether the leaf at a '/'-joined path has a leading axis of blocks.

    >>> is_stacked("stage1/blocks/branch/conv1/kernel"), is_stacked("stage1/block0/branch/conv1/kernel")
    (True, False)
    """
    return parse(path).stacked


def listed_paths(path: str, blocks: int) -> list[str]:
    """Return the listed-layout paths that a leaf of ``blocks`` stacked blocks corresponds to.

    >>> listed_paths("stage1/blocks/branch/gain", 2)
    ['stage1/block1/branch/gain', 'stage1/block2/branch/gain']
    """
    parts = path.split("/")
    at = next(at for at, part in enumerate(parts) if part == STACK and at and stage_index(parts[at - 1]) is not None)
    return ["/".join([*parts[:at], block_name(index), *parts[at + 1 :]]) for index in range(1, blocks + 1)]


def over_blocks(function: Callable[..., Any], stacked: bool) -> Callable[..., Any]:
    """Return ``function``, which takes one block's parameter, mapped over a stack of them if ``stacked``."""
    return jax.vmap(function) if stacked else function


def _is_stage(node: Any) -> bool:
    if not isinstance(node, dict) or block_name(0) not in node or not (block_name(1) in node or STACK in node):
        return False
    return all(name in (STACK, TRANSITION) or block_index(name) is not None for name in node)


def _rest(stage: dict[str, Any]) -> list[str]:
    """Return the names of the blocks after the first, in order."""
    return [block_name(number) for number in sorted(block_index(name) or 0 for name in stage) if number > 0]


def _stacked(stage: dict[str, Any], axis: int) -> dict[str, Any]:
    names = _rest(stage)
    first, *others = (stage[name] for name in names)
    if any(_form(other) != _form(first) for other in others):
        return stage  # no equal blocks, or missing parts (such as the optimizer state of a partly frozen network)
    kept = {name: block for name, block in stage.items() if name not in names}
    return {**kept, STACK: jax.tree.map(lambda *leaves: _join(leaves, axis), first, *others)}


def _listed(stage: dict[str, Any], names: Sequence[str], axis: int) -> dict[str, Any]:
    kept = {name: block for name, block in stage.items() if name != STACK}
    blocks = {name: jax.tree.map(lambda leaf, i=i: _take(leaf, i, axis), stage[STACK]) for i, name in enumerate(names)}
    return {**kept, **blocks}


def _form(block: PyTree) -> Any:
    return jax.tree.structure(block), [jnp.shape(leaf) for leaf in jax.tree.leaves(block)]


def _length(stacked: PyTree, axis: int) -> int | None:
    leaves = jax.tree.leaves(stacked)
    return leaves[0].shape[axis] if leaves else None


def _join(leaves: Sequence[Any], axis: int) -> Any:
    first = leaves[0]
    if isinstance(first, jax.ShapeDtypeStruct):
        shape = (*first.shape[:axis], len(leaves), *first.shape[axis:])
        return jax.ShapeDtypeStruct(shape, first.dtype, sharding=_resharded(first, axis, joined=True))
    return np.stack(leaves, axis) if isinstance(first, np.ndarray) else jnp.stack(leaves, axis)


def _take(leaf: Any, index: int, axis: int) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        shape = (*leaf.shape[:axis], *leaf.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=_resharded(leaf, axis, joined=False))
    return leaf[(slice(None),) * axis + (index,)]


def _resharded(leaf: jax.ShapeDtypeStruct, axis: int, *, joined: bool) -> Any:
    """Return the sharding of a shape after adding an unsharded axis of blocks, or after removing it."""
    where = leaf.sharding
    if not isinstance(where, NamedSharding) or not any(where.spec):
        return where
    spec = [*where.spec, *(None,) * (len(leaf.shape) - len(where.spec))]
    if joined:
        spec.insert(axis, None)
    else:
        del spec[axis]
    return NamedSharding(where.mesh, PartitionSpec(*spec))
