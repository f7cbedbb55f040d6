"""Gradients summed over devices in a few large pieces, in the order in which the backward pass produces them.

Summing each of a network's 161 arrays over devices would mean 161 waits; a single sum of all could begin only when
everything else is done. Here the arrays are concatenated into a few pieces of about equal size. The first piece, with
the classifier and the last blocks, is complete while most of the backward pass is still to come, so communication can
overlap with it. Compilers merge sums that could run together, and then all wait for the last; therefore each piece but
the first carries a number that only the piece before it provides.

On a TPU the arrays are not concatenated: they are stored in tiles, and concatenation costs a pass over the gradient
each way. There, every array is summed as it is, and the compiler merges those of a piece: a piece waits for the one
before it, and its sums name the devices in a different order than those of batch norms, with which they would otherwise
be merged and have to wait. Whether anything runs while a piece is communicated is up to the compiler:
``experiments/results/chips/README.md`` shows what it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from resnet_jax.models.paths import parse

#: The maximum number of pieces: enough to begin early, each large enough that latency is a small part.
PIECES = 6


def summed(grads: Mapping[str, Any], with_them: Any, axis_name: str, *, laid: bool = True) -> Any:
    """Return gradients, and arrays communicated with the first of them, summed over the devices of a mapped axis.

    Args:
        grads: ``{"params": ..., ...}``, from this device's examples.
        with_them: any arrays that are ready before the backward pass: the loss, metrics.
        axis_name: the mapped axis.
        laid: whether the arrays of a piece are concatenated; otherwise the compiler merges them.
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
    """Return the indices of parameter paths in the order in which a backward pass reaches them.

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
    """Return where to split a row of sizes into at most this many pieces of about equal size, as (start, stop).

    A piece ends where it reaches its share of the total, so the last one, with no computation left to overlap, is
    small.

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
    """Return arrays summed over devices, concatenated by dtype.

    A number from the piece before is communicated with them, so that no compiler can merge the two.
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
    """Return arrays summed over devices individually, for a compiler that merges sums which could run together.

    Behind the barrier they depend on the previous piece, so sums of different pieces are not merged. Neither are they
    merged with sums over the same devices in another order, such as those of batch norms.
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
