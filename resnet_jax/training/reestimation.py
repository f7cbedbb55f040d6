"""Recomputation of the batch statistics for fixed weights.

The running averages of training belong to weights that changed while they were collected, and averaged weights (EMA;
stochastic weight averaging, Izmailov et al. 2018, arXiv 1803.05407, section 3.3) never had statistics of their own.
Here the network sees some batches in train mode with fixed weights, and gets the mean and variance over all of them
together, as He et al.'s released networks did:

    mean = E_j[mean_j],   var = E_j[var_j] + Var_j[mean_j]    over the batches j, weighted by their size

The second term of the variance is what an average of the batches' variances would omit. mean_j and var_j of a batch
depend on the normalization: with ghost or per-device statistics, var_j is the mean over the groups of the batch.
Dropout and stochastic depth act as in training. A network with unbiased running variances gets n / (n - 1) times the
variance, n being the total number of values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from resnet_jax.errors import UsageError
from resnet_jax.models.norm import leave_biased
from resnet_jax.ops import at_least_float32
from resnet_jax.training.accumulate import unbias
from resnet_jax.training.compile import compile_eval_step
from resnet_jax.training.placement import Devices, shard_batch
from resnet_jax.training.step import Batch, Preprocess

PyTree = Any


class Pooled(flax.struct.PyTreeNode):
    """Mean and variance of everything seen so far.

    Attributes:
        batches: number of batches, int32 scalar.
        examples: number of examples, float32 scalar.
        stats: the statistics, float32 or wider.
    """

    batches: jax.Array
    examples: jax.Array
    stats: Any


def make_pooling_step(
    model: nn.Module,
    *,
    norm_momentum: float,
    preprocess: Preprocess | None = None,
    positions: dict[tuple[str, ...], int] | None = None,
) -> Callable[[tuple[Mapping[str, Any], Pooled], Batch], Pooled]:
    """Build ``step((variables, pooled), batch) -> pooled``; see :func:`reestimate` for the arguments.

    A batch's own statistics are found by one moving-average step from zero, which leaves ``(1 - m)`` times them.
    Variances are biased; while the step is traced, ``positions`` records how many values per example those that should
    be unbiased are taken over.
    """

    def step(carry: tuple[Mapping[str, Any], Pooled], batch: Batch) -> Pooled:
        variables, pooled = carry
        images = batch["image"] if preprocess is None else preprocess(jax.random.key(0), batch)
        examples = jax.tree.leaves(images)[0].shape[0]
        with leave_biased() as counts:
            _, updates = model.apply(
                {**variables, "batch_stats": jax.tree.map(jnp.zeros_like, variables["batch_stats"])},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.fold_in(jax.random.key(0), pooled.batches)},
            )
        if positions is not None:
            positions.update({path: count // examples for path, count in counts.items()})
        stats = jax.tree.map(lambda moved: _wide(moved) / (1.0 - norm_momentum), updates["batch_stats"])
        count = jnp.float32(examples)
        examples = pooled.examples + count
        return Pooled(pooled.batches + 1, examples, _union(pooled.stats, stats, count / examples, "batch_stats"))

    return step


def reestimate(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    norm_momentum: float,
    preprocess: Preprocess | None = None,
    mesh: Devices | None = None,
) -> dict[str, Any]:
    """Return ``variables`` with the batch statistics of ``batches``; everything else is unchanged.

    Args:
        model: a Linen module called as ``model(x, train=...)`` whose statistics are pairs of ``mean`` and ``var``.
        variables: ``params`` and ``batch_stats``; only the shapes of the latter matter.
        batches: host batches with ``image`` and without padding, preferably in random order; all of them are used.
        norm_momentum: weight of the old running average in the network's batch norm.
        preprocess: as for :func:`resnet_jax.training.step.make_train_step`; usually without augmentation.
        mesh: devices to shard each batch over; None uses the default device.

    Raises:
        UsageError: if there are no statistics, they do not change in training (frozen batch norm), there are no
            batches, or a batch is padded.

    >>> class Net(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, train):
    ...         return nn.BatchNorm(momentum=0.9)(x, use_running_average=not train)
    >>> variables = Net().init(jax.random.key(0), np.zeros((1, 1), np.float32), train=False)
    >>> batches = [{"image": np.array(rows, np.float32)} for rows in ([[0.0], [2.0]], [[4.0], [6.0]])]
    >>> stats = reestimate(Net(), variables, batches, norm_momentum=0.9)["batch_stats"]["BatchNorm_0"]
    >>> round(float(stats["mean"][0]), 4), round(float(stats["var"][0]), 4)  # of 0, 2, 4, 6
    (3.0, 5.0)
    """
    return Reestimation(model, norm_momentum=norm_momentum, preprocess=preprocess, mesh=mesh)(variables, batches)


class Reestimation:
    """:func:`reestimate`, compiled once for many variables of one network; the arguments are the same."""

    def __init__(
        self,
        model: nn.Module,
        *,
        norm_momentum: float,
        preprocess: Preprocess | None = None,
        mesh: Devices | None = None,
    ):
        self._positions: dict[tuple[str, ...], int] = {}
        self._mesh = mesh
        step = make_pooling_step(model, norm_momentum=norm_momentum, preprocess=preprocess, positions=self._positions)
        self._step = jax.jit(step) if mesh is None else compile_eval_step(step, mesh)

    def __call__(self, variables: Mapping[str, Any], batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """Return ``variables`` with the batch statistics of ``batches``."""
        before, mesh = variables.get("batch_stats", {}), self._mesh
        if not jax.tree.leaves(before):
            raise UsageError("the network has no batch statistics: there is nothing to re-estimate")
        zeros = jax.tree.map(lambda x: jnp.zeros_like(_wide(x)), before)
        pooled = Pooled(jnp.zeros((), jnp.int32), jnp.zeros(()), zeros)
        for batch in batches:
            if not np.all(batch.get("mask", True)):
                raise UsageError("a padded batch cannot be used: the padding would count in the statistics")
            pooled = self._step((variables, pooled), batch if mesh is None else shard_batch(batch, mesh))
        if not int(pooled.batches):
            raise UsageError("no batches to re-estimate the statistics from")
        if not any(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(pooled.stats)):
            raise UsageError("the statistics do not move in training (frozen batch norm): they cannot be re-estimated")
        counts = {path: int(pooled.examples) * each for path, each in self._positions.items()}
        after = jax.tree.map(lambda new, old: new.astype(old.dtype), unbias(pooled.stats, counts), before)
        return {**variables, "batch_stats": after}


def _wide(x: Any) -> jax.Array:
    return jnp.asarray(x, at_least_float32(x.dtype))


def _union(a: PyTree, b: PyTree, share: jax.Array, path: str) -> PyTree:
    """Return mean and variance of two sets together, of which ``share`` is in ``b`` (Chan et al. 1983)."""
    if isinstance(a, Mapping) and set(a) == {"mean", "var"} and not isinstance(a["mean"], Mapping):
        delta, part = b["mean"] - a["mean"], share.astype(a["mean"].dtype)
        between = part * (1.0 - part) * jnp.square(delta)
        return {"mean": a["mean"] + part * delta, "var": a["var"] + part * (b["var"] - a["var"]) + between}
    if isinstance(a, Mapping):
        return {name: _union(a[name], b[name], share, f"{path}/{name}") for name in a}
    raise UsageError(f"cannot pool the statistic {path}: expected pairs of 'mean' and 'var'")
