"""Which paths carry the gradient: its size by the number of branches on the path (Veit et al. 2016, section 4.2).

A network of L residual blocks is a sum over 2^L paths, each through the branch or the skip of every block. A path of
length k goes through k branches, and there are C(L, k) of them (arXiv 1605.06431; their figure 6).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array

from resnet_jax import ops
from resnet_jax.depth.profiling import chart_of, without_drops
from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import BlockNames, Hook, instrumented, probe
from resnet_jax.models.collections import GATES, PROBES
from resnet_jax.ops.annotations import Images, Targets
from resnet_jax.tasks.losses import Loss, cross_entropy

_BRANCH, _SKIP = "branch", "skip"


@dataclasses.dataclass(frozen=True)
class PathLengths:
    """The gradient at the first block's input, by the number of branches it passed.

    Attributes:
        lengths: numbers of branches k, int (lengths,).
        log_norm: natural logarithm of the mean norm of the gradient along one path of that length, (lengths,); -inf
            where it underflows float32.
        log_paths: logarithm of the number of such paths, C(L, k), (lengths,).
        norms: of each sampled path, (lengths, draws).
        blocks: L.
    """

    lengths: np.ndarray
    log_norm: np.ndarray
    log_paths: np.ndarray
    norms: np.ndarray
    blocks: int

    @property
    def contribution(self) -> np.ndarray:
        """Share of each length in the total of number of paths times mean norm, over all lengths in between,
        (lengths,).

        It sums to 1 if every length was measured; see :meth:`over_all_lengths`.
        """
        every, shares = self.over_all_lengths()
        return shares[np.searchsorted(every, self.lengths)]

    def over_all_lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every length from the shortest measured to the longest, and its share; the shares sum to 1.

        Between measured lengths, the logarithm of the mean norm is interpolated.
        """
        every = np.arange(self.lengths[0], self.lengths[-1] + 1)
        known = np.isfinite(self.log_norm)
        norms = np.interp(every, self.lengths, np.where(known, self.log_norm, 0.0))
        gone = np.interp(every, self.lengths, np.where(known, 0.0, 1.0)) > 0  # next to a length whose gradient is 0
        logs = np.where(gone, -np.inf, norms) + np.asarray([_log_paths(self.blocks, int(k)) for k in every])
        highest = np.max(logs)
        if not np.isfinite(highest):
            return every, np.full(logs.shape, np.nan)
        shares = np.exp(logs - highest)
        return every, shares / shares.sum()

    def effective_lengths(self, share: float = 0.95) -> tuple[int, int]:
        """Return the shortest and longest of the central lengths that make up this share of the contribution."""
        every, shares = self.over_all_lengths()
        tail = (1.0 - share) / 2.0
        low, high = np.minimum(np.searchsorted(np.cumsum(shares), [tail, 1.0 - tail]), len(every) - 1)
        return int(every[low]), int(every[high])


def path_lengths(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Images,
    labels: Targets,
    *,
    lengths: Sequence[int] | None = None,
    draws: int = 16,
    train: bool = False,
    loss: Loss = cross_entropy,
    seed: int = 0,
    anatomy: BlockNames | None = None,
) -> PathLengths:
    """Measure gradients along random paths of each length.

    The forward pass is complete. In the backward pass, k random blocks pass the gradient only through their branch and
    all others only through their skip.

    Args:
        model: a network whose blocks have a branch and a skip.
        variables: in the layout of its execution.
        images: a batch.
        labels: for the loss.
        lengths: lengths to measure; None: all, or about 40 of them in a deep network.
        draws: number of paths of each length.
        train: normalize by the statistics of this batch instead of the running averages.
        loss: per-example loss, whose mean is differentiated.
        seed: seed of the paths.
        anatomy: what a block is; None: this library's.

    Raises:
        UsageError: blocks without a skip, lengths that do not exist, or gradients beyond the range of float32.
    """
    anatomy, model = BlockNames() if anatomy is None else anatomy, without_drops(model)
    chart = chart_of(model, variables, images, anatomy, train)
    blocks = len(chart.names)
    if lengths is None:
        lengths = sorted({round(k) for k in np.linspace(0, blocks, min(blocks + 1, 41))})
    lengths = sorted(set(lengths))
    if not lengths or not all(0 <= k <= blocks for k in lengths):
        raise UsageError(f"paths through {blocks} blocks have lengths 0 to {blocks}, got {tuple(lengths)}")
    gradient = gradient_through(model, variables, images, labels, train=train, loss=loss, anatomy=anatomy)
    rng = np.random.default_rng(seed)
    norms = np.zeros((len(lengths), draws))
    for row, k in enumerate(lengths):
        for draw in range(draws):
            through = np.zeros(blocks, np.float32)
            through[rng.choice(blocks, k, replace=False)] = 1.0
            norms[row, draw] = gradient(through, 1.0 - through)
    if not np.isfinite(norms).all() or not norms.any():
        raise UsageError(
            "the gradients along paths are "
            + ("not finite" if norms.any() else "all zero")
            + " in float32, which holds norms of 1e-22 to 1e19: multiply the loss by a number"
        )
    with np.errstate(divide="ignore"):
        log_norm = np.log(norms.mean(axis=1))
    log_paths = [_log_paths(blocks, k) for k in lengths]
    return PathLengths(np.asarray(lengths), log_norm, np.asarray(log_paths), norms, blocks)


def _log_paths(blocks: int, k: int) -> float:
    """Return the logarithm of C(blocks, k)."""
    return math.lgamma(blocks + 1) - math.lgamma(k + 1) - math.lgamma(blocks - k + 1)


def gradient_through(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Images,
    labels: Targets,
    *,
    train: bool,
    loss: Loss,
    anatomy: BlockNames,
) -> Any:
    """Return a function ``(branch (blocks,), skip (blocks,)) ->`` norm of the gradient at the first block's input.

    The two arrays multiply the gradient that goes back into each block's branch and skip.
    """
    chart = chart_of(model, variables, images, anatomy, train)
    skips: list[tuple[str, ...]] = []

    def hook(block: nn.Module, point: str, x: Array) -> Array:
        if point not in (_BRANCH, _SKIP):
            return x
        if point == _SKIP:
            skips.append(block.path)
        return ops.gate(x, block.get_variable(GATES, point))

    taps: Hook = probe("input")

    @jax.jit
    def norm(variables, branch, skip):
        gates = chart.place({_BRANCH: branch, _SKIP: skip})

        def mean_loss(probes):
            with instrumented(anatomy, taps, hook):
                out, _ = model.apply(
                    {**variables, GATES: gates, PROBES: probes}, images, train=train, mutable=["batch_stats"]
                )
            return jnp.mean(loss(out, jax.tree.map(jnp.asarray, labels)))

        zeros = chart.place({"input": jnp.zeros(len(chart.names))})
        return jnp.sqrt(chart.rows(jax.grad(mean_loss)(zeros), "input")[0])

    def measure(branch: Any, skip: Any) -> float:
        value = float(norm(dict(variables), jnp.asarray(branch, jnp.float32), jnp.asarray(skip, jnp.float32)))
        if not set(chart.paths) <= set(skips):
            raise UsageError("the blocks of this network have no skip: its gradient has one path only")
        return value

    return measure
