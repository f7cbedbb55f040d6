"""Gradients summed over devices in few large pieces, in the order in which the backward pass makes them.

A sum over devices of each of a network's 161 arrays would be 161 waits; one of all could only begin when everything
else is done. Here the arrays are laid behind each other in a few pieces of about the same bytes. The first piece, the
classifier and the last blocks, is complete when the backward pass has most of its work still before it, and can cross
meanwhile. Compilers join sums that could go together, and then all wait for the last; so each piece but the first
carries a number that only the one before it knows.

Not laid on a TPU: arrays lie there in tiles, and laying costs a pass over the gradient each way. There every array is
summed as it lies, and the compiler joins those of a piece: a piece waits for the one before it, and its sums name the
devices in another order than batch norms' do, which a piece would otherwise be joined with and stop at. Whether
anything runs while a piece crosses is up to the compiler: ``experiments/results/chips/README.md`` has what it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from resnet_jax.models.paths import parse

#: At most so many pieces: enough to begin early, and each large enough that latency is little of it.
PIECES = 6


def summed(grads: Mapping[str, Any], with_them: Any, axis_name: str, *, laid: bool = True) -> Any:
    """Return the sum over the devices of a mapped axis of gradients and of what crosses with the first of them.

    Args:
        grads: ``{"params": ..., ...}``, of this device's examples.
        with_them: any arrays that are ready before the backward pass: the loss, metrics.
        axis_name: the mapped axis.
        laid: whether the arrays of a piece are laid behind each other; else the compiler joins them.
    """
    paths, leaves, shape = _flat(grads)
    order = backward_order(paths)
    pieces = cut([leaves[index].size * leaves[index].dtype.itemsize for index in order], PIECES)
    early, early_shape = jax.tree.flatten(with_them)
    out: list[Any] = [None] * len(leaves)
    before: list[jax.Array] = []
    for number, (start, stop) in enumerate(pieces):
        chosen = order[start:stop]
        crossing = [*(leaves[index] for index in chosen), *(early if number == 0 else ())]
        got = (_sum_laid if laid else _sum_apart)(crossing, before, axis_name)
        for index, leaf in zip(chosen, got, strict=False):
            out[index] = leaf
        early = got[len(chosen) :] if number == 0 else early
        before = got[: len(chosen)]
    return jax.tree.unflatten(shape, out), jax.tree.unflatten(early_shape, early)


def backward_order(paths: Sequence[str]) -> list[int]:
    """Return the indices of paths of parameters in the order in which a backward pass comes to them.

    >>> backward_order(["head/bias", "stage1/block0/shortcut/scale", "stage1/block1/branch/scale", "stem/norm/scale"])
    [0, 2, 1, 3]
    """

    def place(path: str) -> tuple[int, int]:
        where = parse(path)
        if where.stage is None:
            return (-1, 0) if where.in_stem else (10**6, 0)
        # stacked blocks follow the first of their stage
        return where.stage, 1 if where.stacked else where.block or 0

    return sorted(range(len(paths)), key=lambda index: place(paths[index]), reverse=True)


def cut(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Return where a row of sizes is cut into at most so many pieces of about the same size, as (start, stop).

    A piece ends where it has its share of all: so the last, which nothing is left to be computed behind, is small.

    >>> cut([4, 1, 1, 1, 4, 1], 3)
    [(0, 1), (1, 5), (5, 6)]
    >>> cut([], 3)
    [(0, 0)]
    """
    share, pieces, start = sum(sizes) / most, [], 0
    for stop in range(1, len(sizes) + 1):
        if sum(sizes[start:stop]) >= share:
            pieces.append((start, stop))
            start = stop
    return pieces if pieces and start == len(sizes) else [*pieces, (start, len(sizes))]


def _sum_laid(arrays: Sequence[jax.Array], before: Sequence[jax.Array], axis_name: str) -> list[jax.Array]:
    """Return arrays summed over devices, laid behind each other, all of a dtype at once.

    A number of the piece before crosses with them: no compiler can join the two.
    """
    ticket = [before[0].reshape(-1)[:1].astype(arrays[0].dtype)] if before else []
    out: list[Any] = [None] * len(arrays)
    for dtype in sorted({array.dtype for array in arrays}, key=str):
        chosen = [index for index, array in enumerate(arrays) if array.dtype == dtype]
        rows = [*(arrays[index].reshape(-1) for index in chosen), *(ticket if dtype == arrays[0].dtype else ())]
        row = lax.psum(jnp.concatenate(rows), axis_name)
        start = 0
        for index in chosen:
            shape = arrays[index].shape
            out[index] = lax.slice_in_dim(row, start, start + math.prod(shape)).reshape(shape)
            start += math.prod(shape)
    return out


def _sum_apart(arrays: Sequence[jax.Array], before: Sequence[jax.Array], axis_name: str) -> list[jax.Array]:
    """Return arrays summed over devices as they lie, for a compiler that joins sums which could go together.

    Behind the barrier they need what the piece before gave, so none of one piece is joined with one of another. Of
    sums over the same devices in another order, as batch norms' are, it joins none either.
    """
    if before:
        arrays, _ = lax.optimization_barrier((list(arrays), list(before)))
    devices = list(range(lax.axis_size(axis_name)))
    return lax.psum(list(arrays), axis_name, axis_index_groups=[devices[::-1]])


def _flat(tree: Any) -> tuple[list[str], list[jax.Array], Any]:
    """Return the paths below a tree's first names, its leaves, and its structure."""
    found, shape = jax.tree_util.tree_flatten_with_path(tree)
    paths = ["/".join(str(getattr(key, "key", key)) for key in path[1:]) for path, _ in found]
    return paths, [leaf for _, leaf in found], shape
