"""Curvature by depth: extreme eigenvalues of the Hessian of the loss in the parameters of one block at a time."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from resnet_jax.depth.arrays import load_arrays, save_arrays
from resnet_jax.depth.lanczos import lanczos, symmetric_ritz
from resnet_jax.depth.profiling import chart_of, without_drops
from resnet_jax.depth.spectra import check_counts
from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import BlockIndex, BlockNames
from resnet_jax.ops.annotations import Images, Targets
from resnet_jax.tasks.losses import Loss, cross_entropy

#: Lanczos keeps this many vectors of all parameters; more bytes than this are refused.
MOST_BYTES = 2**32


@dataclasses.dataclass(frozen=True)
class HessianEigenvalues:
    """Extreme eigenvalues of the diagonal blocks of a Hessian, float64 ``(blocks,)`` in depth order.

    There is an eigenvalue within the residual of each value. Until it has converged, the largest is a lower bound.

    Attributes:
        names: path of every block.
        stages: stage of every block, from 0, int.
        largest: largest eigenvalue of the second derivatives by the parameters of each block alone.
        smallest: smallest eigenvalue; negative where the loss is not convex.
        largest_residual: bound on the error of ``largest``.
        smallest_residual: bound on the error of ``smallest``.
        whole: largest and smallest eigenvalue of the Hessian in all parameters, and their residuals, ``(4,)``; NaN if
            not requested.
        iterations: number of Lanczos iterations; fewer in a block with fewer parameters.
    """

    names: tuple[str, ...]
    stages: np.ndarray
    largest: np.ndarray
    smallest: np.ndarray
    largest_residual: np.ndarray
    smallest_residual: np.ndarray
    whole: np.ndarray
    iterations: int

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write every field as an array of an ``.npz`` file."""
        save_arrays(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HessianEigenvalues:
        """Read the result of :meth:`save`."""
        return load_arrays(cls, path)


def hessian_eigenvalues(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Images,
    labels: Targets,
    *,
    train: bool = True,
    loss: Loss = cross_entropy,
    iterations: int = 20,
    whole: bool = False,
    seed: int = 0,
    anatomy: BlockNames | None = None,
) -> HessianEigenvalues:
    """Return the extreme eigenvalues of the Hessian of the mean loss, block by block.

    Uses Lanczos with Hessian-vector products, forward over reverse. Each product costs about two gradients, and a block
    takes ``iterations`` of them. One program is compiled for all blocks. Memory is that of ``iterations`` copies of all
    parameters.

    Args:
        model: a Linen module called as ``model(x, train=...)``; nothing is dropped.
        variables: in the layout of its execution.
        images: inputs of the network.
        labels: for the loss.
        train: normalize by the statistics of this batch instead of the running averages.
        loss: per-example loss ``(logits, labels) -> (N,)``.
        iterations: number of products for each block.
        whole: also compute those of the Hessian in all parameters.
        seed: seed of the random starts.
        anatomy: what a block is; None: this library's.

    Raises:
        UsageError: the network has no such blocks, a count is less than 1, or it would need too much memory.
    """
    check_counts(iterations=iterations)
    model, anatomy = without_drops(model), BlockNames() if anatomy is None else anatomy
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    if size * iterations * 4 > MOST_BYTES:
        raise UsageError(
            f"{iterations} vectors of {size:,} parameters are more than {MOST_BYTES >> 30} GiB; take fewer iterations"
        )
    chart = chart_of(model, variables, images, anatomy, train)
    owners = _owners(variables["params"], chart)
    counts = {**_counts(variables["params"], owners, len(chart.names)), _WHOLE: size}
    measure = _measure(model, train, loss, iterations)
    rows = []
    for number in [*range(len(chart.names)), *([_WHOLE] if whole else [])]:
        key = jax.random.fold_in(jax.random.key(seed), number)
        diagonal, off = jax.device_get(measure(variables, images, labels, owners, number, key))
        steps = max(min(iterations, counts[number]), 1)  # a space of fewer dimensions has no more eigenvalues
        ritz = symmetric_ritz(diagonal[:steps], off[:steps])
        rows.append((ritz.values[-1], ritz.values[0], ritz.residuals[-1], ritz.residuals[0]))
    table = np.asarray(rows[: len(chart.names)])
    return HessianEigenvalues(
        names=chart.names,
        stages=chart.stages,
        largest=table[:, 0],
        smallest=table[:, 1],
        largest_residual=table[:, 2],
        smallest_residual=table[:, 3],
        whole=np.asarray(rows[-1]) if whole else np.full(4, np.nan),
        iterations=iterations,
    )


#: Stands for all parameters in place of a block's depth index.
_WHOLE = 2**31 - 1


@functools.lru_cache(maxsize=8)
def _measure(model: nn.Module, train: bool, loss: Loss, iterations: int) -> Callable[..., tuple[Array, Array]]:
    def measure(variables, images, labels, owners, block, key):
        rest = {name: value for name, value in variables.items() if name != "params"}

        def mean_loss(params):
            out, _ = model.apply({**rest, "params": params}, images, train=train, mutable=["batch_stats"])
            return jnp.mean(loss(out, labels))

        flat, unravel = ravel_pytree(variables["params"])
        mine = jax.tree.map(
            lambda leaf, owner: jnp.broadcast_to(_over(owner, leaf), leaf.shape), variables["params"], owners
        )
        mask = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(mine)])
        mask = ((mask == block) | (block == _WHOLE)).astype(flat.dtype)

        def product(v):
            tangent = unravel(v * mask)
            return ravel_pytree(jax.jvp(jax.grad(mean_loss), (variables["params"],), (tangent,))[1])[0] * mask

        start, go_on = jax.random.split(key)
        v = jax.random.normal(start, flat.shape, flat.dtype)
        return lanczos(product, v, iterations, go_on, within=lambda v: v * mask)

    return jax.jit(measure)


def _over(owner: Array, leaf: Array) -> Array:
    return jnp.reshape(owner, (*owner.shape, *(1,) * (leaf.ndim - owner.ndim)))


def _owners(params: Any, chart: BlockIndex) -> Any:
    """Return the depth index of every leaf's block, int32 (blocks,) where blocks are stacked; -1 for no block."""
    first: dict[tuple[str, ...], tuple[int, int | None]] = {}
    place = 0
    for path, count in zip(chart.paths, chart.counts, strict=True):
        first[path] = (place, count)
        place += count or 1

    def owner(path, leaf):
        names = tuple(str(part.key) for part in path)
        for length in range(len(names) - 1, 0, -1):
            if names[:length] in first:
                start, count = first[names[:length]]
                return np.asarray(start, np.int32) if count is None else np.arange(start, start + count, dtype=np.int32)
        return np.asarray(-1, np.int32)

    return jax.tree_util.tree_map_with_path(owner, params)


def _counts(params: Any, owners: Any, blocks: int) -> dict[int, int]:
    """Return the number of parameters of every block, by its depth index."""
    counts = np.zeros(blocks, np.int64)
    for leaf, owner in zip(jax.tree.leaves(params), jax.tree.leaves(owners), strict=True):
        owner = np.atleast_1d(owner)
        np.add.at(counts, owner[owner >= 0], leaf.size // owner.size)
    return dict(enumerate(counts.tolist()))
