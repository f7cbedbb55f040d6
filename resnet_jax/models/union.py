"""Mean and variance of a batch that lies in parts, from those of the parts; over devices with one wait.

The variance of a union of equal parts is the mean of the parts' variances plus the variance of their means. Taken as
E[var_i + mean_i^2] - mean^2, one sum over devices would do; but that cancels for |mean| >> std, as E[x^2] - E[x]^2
does. So every device is sent the pair of each, with one all-gather of 2 C numbers a device, and takes the means'
distances from the first of them, which are no larger than what they vary by: of n devices the sum of their squares is
at most n times that of the distances from their mean, so that what cancels is n 2^-24 of the variance at the most. The
result is the same to the bit on every device. What is left is the rounding of the means that cross, 2^-24 |mean|
(times how far apart they are), that of any input. Forward and backward each wait once: the derivative is a mean over
devices of a pair, and so is its transpose.

What a device receives grows with the devices: 8 C bytes from each. On 256, a ResNet-50's 53 norms of 26,560 channels
receive 54 MB in a step, as much as its gradient in bfloat16; on 1,024, 218 MB. By the figures of
:mod:`resnet_jax.bench.chips.table` that takes 0.27 ms of a v5e's links, and 0.73 ms of a v4's; a second wait for every
norm would take 0.85 ms of either. Beyond :data:`GATHERED` devices the two sums are cheaper, and are taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Groups = tuple[tuple[int, ...], ...]

#: Up to so many devices the pairs of all are gathered, with one wait; more of them take two sums over devices.
GATHERED = 1024


def union(mean: Array, var: Array, average: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Mean and variance of the union of equal parts from theirs; ``average`` takes the mean over the parts."""
    whole = average(mean)
    return whole, average(var + jnp.square(mean - whole))


def union_over(
    mean: Array, var: Array, axis_name: str, groups: Sequence[Sequence[int]] | None = None
) -> tuple[Array, Array]:
    """Mean and variance of what the devices along a mapped axis have, from those of each.

    Args:
        mean: of this device.
        var: of this device.
        axis_name: the mapped axis.
        groups: of devices, each of which has its own; None for all together.

    Raises:
        NotImplementedError: groups under ``shard_map`` with ``check_vma``.
    """
    if jax.typeof(mean).mat.varying:  # check_vma wants results that are known to be equal: two means over devices
        return union(mean, var, partial(lax.pmean, axis_name=axis_name, axis_index_groups=groups))
    fixed = None if groups is None else tuple(map(tuple, groups))
    return _gathered(mean, var, axis_name, fixed)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _gathered(mean: Array, var: Array, axis_name: str, groups: Groups | None) -> tuple[Array, Array]:
    if (lax.axis_size(axis_name) if groups is None else len(groups[0])) > GATHERED:
        return union(mean, var, partial(lax.pmean, axis_name=axis_name, axis_index_groups=groups))
    first = lax.broadcasted_iota(jnp.int32, (2, *mean.shape), 0) == 0
    both = jnp.where(first, mean, var)  # a stack, which joins the kernel that makes the variance
    both = lax.all_gather(both, axis_name, axis_index_groups=groups)
    means, variances = both[:, 0], both[:, 1]
    away = means - means[:1]
    shift = jnp.mean(away, axis=0)
    return means[0] + shift, jnp.mean(variances + jnp.square(away), axis=0) - jnp.square(shift)


@_gathered.defjvp
def _gathered_jvp(axis_name, groups, primals, tangents):
    mean, _ = primals
    dmean, dvar = tangents
    whole, var = _gathered(*primals, axis_name, groups)
    average = partial(lax.pmean, axis_name=axis_name, axis_index_groups=groups)
    moved = lax.platform_dependent(
        dmean,
        dvar + 2.0 * (mean - whole) * dmean,
        tpu=lambda *both: average(both),  # the compiler joins the two, and to stack them would be a kernel
        default=lambda *both: tuple(average(jnp.stack(both))),
    )
    return (whole, var), moved


#: While :func:`leave_apart` is in effect.
_APART: ContextVar[bool] = ContextVar("apart", default=False)


@contextlib.contextmanager
def leave_apart() -> Iterator[None]:
    """Let the running averages of scopes within a device be its own while a network is traced, to be united later.

    So a step waits once for those of all norms, and not for each.
    """
    token = _APART.set(True)
    try:
        yield
    finally:
        _APART.reset(token)


def left_apart() -> bool:
    """Return whether :func:`leave_apart` is in effect."""
    return _APART.get()
