"""Gradient accumulation, and how batch norm behaves under it.

A batch of N is split into k micro-batches of n = N / k. For a loss that is a mean over examples, the mean of the k
gradients is the gradient of the mean: without batch norm the result equals that of the full batch, up to rounding.

With batch norm it does not, and cannot: each micro-batch is normalized by its own n examples, as in ghost batch norm
(Hoffer et al. 2017, algorithm 1) with ghost batches of n. We define and test the following:

* Normalization and gradients: those of the k micro-batches, each on its own.
* Running statistics: **one** moving-average step per optimizer update (k sequential steps would turn momentum m into
  m^k), towards the mean and variance of the **whole** batch. The variance of a union is the mean of the parts'
  variances plus the variance of their means; dropping the second term underestimates it. With unbiased variances
  (``norm_running_variance``) this is multiplied by N s / (N s - 1), where s is the number of positions per example: the
  correction for the whole batch, as without accumulation.

Micro-batch j takes the examples j, j + k, j + 2k, ...: when a batch is sharded over devices, each device splits its own
shard and no example moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from resnet_jax.errors import UsageError
from resnet_jax.models.norm import bessel, counted, leave_biased


def accumulate_gradients(
    value_and_grad: Callable[..., Any],
    params: Any,
    batch_stats: Any,
    batch: Mapping[str, jax.Array],
    dropout_key: jax.Array,
    *,
    steps: int,
    norm_momentum: float | None,
    like: Any = None,
) -> Any:
    """Run ``value_and_grad`` on ``steps`` micro-batches and combine the results as for one batch.

    Args:
        value_and_grad: ``(params, batch_stats, batch, key) -> ((loss, (batch_stats, sums)), grads)``.
        params: the parameters.
        batch_stats: the running statistics before the step, passed to every micro-batch.
        batch: arrays (N, ...); the sums of the micro-batches are added up.
        dropout_key: the key, from which one key per micro-batch is split off.
        steps: the number of micro-batches k; must divide N.
        norm_momentum: weight of the old running average in the network's batch norm.
        like: a tree of arrays with the structure of the gradients; None: the structure of the parameters.

    Raises:
        UsageError: if k does not divide N, or there are statistics but no momentum to pool them with.
    """
    size = next(iter(batch.values())).shape[0]
    if size % steps:
        raise UsageError(f"a batch of {size} cannot be cut into {steps} equal micro-batches")
    if jax.tree.leaves(batch_stats) and norm_momentum is None:
        raise UsageError("accumulating with batch norm needs norm_momentum, to pool the running statistics")

    def micro(array):
        return jnp.moveaxis(array.reshape(size // steps, steps, *array.shape[1:]), 1, 0)

    def body(totals, part):
        (value, (stats, sums)), grads = value_and_grad(params, batch_stats, *part)
        return jax.tree.map(jnp.add, totals, (value, grads)), (stats, sums)

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params if like is None else like))
    parts = ({name: micro(array) for name, array in batch.items()}, jax.random.split(dropout_key, steps))
    # In a loop, XLA:CPU makes the gradients of lax's convolutions (Flax's layers, not ours) 10 to 27 times slower, and
    # this step accepts any network, so unroll there.
    unroll = steps if jax.default_backend() == "cpu" else 1
    outer = counted()
    with leave_biased() as counts:
        (value, grads), (stats, sums) = lax.scan(body, zeros, parts, unroll=unroll)
    if jax.tree.leaves(batch_stats):
        assert norm_momentum is not None  # refused above
        stats = pool_statistics(stats, norm_momentum)
        whole = {path: count * steps for path, count in counts.items()}
        if outer is None:
            stats = unbias(stats, whole, jax.tree.map(lambda x: norm_momentum * x, batch_stats))
        else:
            outer.update(whole)  # this batch is itself a part: who asked corrects the whole
    mean_grads = jax.tree.map(lambda g: g / steps, grads)
    return (value / steps, (stats, jax.tree.map(lambda x: x.sum(axis=0), sums))), mean_grads


def pool_statistics(stats: Any, momentum: float) -> Any:
    """Combine running statistics that k equal parts of a batch computed from the *same* old ones.

    Each is ``new_j = m old + (1 - m) s_j``. The running mean of the union is the mean of the parts' means; its running
    variance is the mean of their variances plus ``(1 - m) Var_j(mean_j)``, where ``Var_j(mean_j) = Var_j(new_mean_j) /
    (1 - m)^2``.

    Args:
        stats: a tree whose innermost dicts are ``{"mean": (k, C), "var": (k, C)}``.
        momentum: the momentum m.

    Raises:
        UsageError: if statistics have another form; the message contains their path.
    """

    def pool(node: Any, path: str) -> Any:
        if isinstance(node, dict) and set(node) == {"mean", "var"} and not isinstance(node["mean"], dict):
            between = jnp.var(node["mean"], axis=0) / (1.0 - momentum)
            return {"mean": jnp.mean(node["mean"], axis=0), "var": jnp.mean(node["var"], axis=0) + between}
        if isinstance(node, dict):
            return {name: pool(child, f"{path}/{name}") for name, child in node.items()}
        raise UsageError(f"cannot pool the statistic {path}: expected pairs of 'mean' and 'var'")

    return pool(stats, "batch_stats")


def unbias(stats: Any, counts: Mapping[tuple[str, ...], int], kept: Any = None) -> Any:
    """Return the statistics with the variances named in ``counts`` made unbiased.

    Args:
        stats: nested dicts whose innermost are ``{"mean": ..., "var": ...}``.
        counts: path of such a pair -> number of values per channel that its variance is taken over.
        kept: the part of the running averages that is old and stays unchanged; None for nothing.

    Raises:
        UsageError: if there is only one value, which has no unbiased variance.
    """

    def at(node: Any, old: Any, path: tuple[str, ...]) -> Any:
        if path in counts:
            var = node["var"]
            base = 0.0 if old is None else old["var"]
            return {**node, "var": base + bessel(counts[path], "/".join(path)) * (var - base)}
        if isinstance(node, Mapping):
            return {name: at(child, None if old is None else old[name], (*path, name)) for name, child in node.items()}
        return node

    return at(stats, kept, ()) if counts else stats
