"""Batch normalization (Ioffe & Szegedy 2015) with an explicit mode and scope, f32 statistics and no cancellation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import assert_never

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from resnet_jax.errors import UsageError
from resnet_jax.models.choices import NormScopeChoice, RunningVarianceChoice
from resnet_jax.models.union import left_apart, union, union_over
from resnet_jax.ops import at_least_float32, moments, normalize


class BatchNorm(nn.Module):
    """Normalize each channel by the mean and variance of the batch (train) or by their running averages (eval).

    Differences from ``flax.linen.BatchNorm``, each of which has cost somebody an experiment:

    * ``train`` is an argument of the call. It is never inferred from what is mutable.
    * The variance is the mean squared distance from the mean, in float32 or wider, whatever the compute dtype. The
      usual E[x^2] - E[x]^2 cancels for ``|mean| >> std`` (raw pixels). For bfloat16 on a TPU, both moments are computed
      in one pass from distances to the running mean (:mod:`resnet_jax.ops.channels_tpu` states the rounding).
    * The running variance is the biased one of the batch, as in Flax. On request it is PyTorch's, which is n / (n - 1)
      times that, where n is the number of values per channel that the running averages see. For n = 1 it is undefined.

    The **scope** determines whose statistics normalize an example in training:

    * ``global``: the whole array that the module sees. Under ``jit`` with a sharded batch this is the global batch
      ("sync BN" for free). Inside ``pmap`` or ``shard_map``, name the mapped axis in ``axis_name`` to get the same.
    * ``ghost``: ``ghost_size`` consecutive examples (Hoffer et al. 2017, arXiv 1705.08741).
    * ``device_group``: the examples of ``group_devices`` consecutive devices, which communicate only among themselves.
    * ``device``: the examples of one device, with no communication in the forward pass. Inside ``pmap`` or
      ``shard_map`` that is what the module sees; under ``jit``, ``devices`` gives the number of equal, consecutive
      parts.
    * ``frozen``: the running averages, in training too; they are not updated.

    In every other scope, the running averages move towards the mean and variance of the **whole** batch: the variance
    of a union is the mean of the parts' variances plus the variance of their means.

    Attributes:
        momentum: weight of the *old* running average (0.9 here is 0.1 in PyTorch).
        eps: added to the variance.
        dtype: dtype of the output; None keeps the input's.
        param_dtype: dtype of scale and bias.
        scale_init: initializer of gamma; zeros for "zero-init of the last gamma" (Goyal et al. 2017, section 5.1).
        axis_name: mapped axis to average the statistics over, if any.
        statistics: the scope: ``global``, ``ghost``, ``device_group``, ``device`` or ``frozen``.
        ghost_size: examples per ghost batch.
        group_devices: devices per group. On a single device the whole batch is the group.
        devices: number of parts the batch is sharded into, for the scopes ``device_group`` and ``device`` under jit.
        relu: apply a ReLU to the output in the same pass over memory.
        running_variance: ``biased``, or ``unbiased`` as in PyTorch.
    """

    momentum: float = 0.9
    eps: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    scale_init: Initializer = nn.initializers.ones
    axis_name: str | None = None
    statistics: NormScopeChoice = "global"
    ghost_size: int | None = None
    group_devices: int | None = None
    devices: int = 1
    relu: bool = False
    running_variance: RunningVarianceChoice = "biased"

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool) -> Float[Array, "n *spatial c"]:
        """Return the normalized ``x``. With ``train``, also update the running averages in ``batch_stats``.

        Raises:
            ValueError: ``train`` without ``mutable=['batch_stats']``, so that the new statistics could not be stored.
            UsageError: the batch cannot be divided into ghost batches or device parts, the devices cannot be divided
                into groups, or there is one value per channel and hence no unbiased variance.
        """
        channels = (x.shape[-1],)
        stat_dtype = at_least_float32(x.dtype)
        scale = self.param("scale", self.scale_init, channels, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, channels, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, stat_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, stat_dtype)

        wide = x.astype(stat_dtype)
        if not train or self.statistics == "frozen":
            mean, var = running_mean.value[None], running_var.value[None]
            return self._normalize(wide[None], mean, var, scale, bias)[0].astype(self.dtype or x.dtype)

        parts = self._parts(x.shape[0])
        wide = wide.reshape(parts, x.shape[0] // parts, *x.shape[1:])
        spread = self.axis_name if self.statistics == "global" else None
        exact = x.dtype == jnp.bfloat16  # then the one-pass form of a TPU loses no precision
        mean, var = moments(wide, jnp.broadcast_to(running_mean.value, (parts, *channels)) if exact else None)
        if spread is not None:
            mean, var = union_over(mean, var, spread)
        if self.axis_name is not None and self.statistics == "device_group":
            mean, var = self._over_group(mean, var)
        if not self.is_initializing():
            if not self.is_mutable_collection("batch_stats"):
                raise ValueError(
                    f"{'/'.join(self.path)}: train=True moves the running statistics; "
                    "call model.apply(..., train=True, mutable=['batch_stats'])"
                )
            union_mean, union_var = union(mean, var, partial(jnp.mean, axis=0, keepdims=True))
            if self.axis_name is not None and spread is None and not left_apart():
                union_mean, union_var = union(union_mean, union_var, lambda x: lax.pmean(x, self.axis_name))
            union_mean, union_var = union_mean[0], union_var[0] * self._correction(x)
            running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * union_mean
            running_var.value = self.momentum * running_var.value + (1 - self.momentum) * union_var
        return self._normalize(wide, mean, var, scale, bias).reshape(x.shape).astype(self.dtype or x.dtype)

    def _normalize(self, x: Array, mean: Array, var: Array, scale: Array, bias: Array) -> Array:
        """Normalize ``x`` (parts, N, *spatial, C) by ``mean`` and ``var`` (parts, C)."""
        gain = lax.rsqrt(var + self.eps) * _rows(scale, var)
        return normalize(x, mean, gain, _rows(bias, var), relu=self.relu)

    def _correction(self, x: Array) -> float:
        """Return the factor on the variance of the whole batch in the running average."""
        if self.running_variance == "biased":
            return 1.0
        count = x.size // x.shape[-1]
        if self.axis_name is not None:
            count *= lax.axis_size(self.axis_name)
        counts = _COUNTS.get()
        if counts is not None:
            counts[self.path] = count
            return 1.0
        return bessel(count, "/".join(self.path))

    def _over_group(self, mean: Array, var: Array) -> tuple[Array, Array]:
        """Return mean and variance of a group of devices along the mapped axis, from those of each device."""
        assert self.axis_name is not None
        devices = lax.axis_size(self.axis_name)
        count = devices // self._groups(devices)
        groups = [list(range(first, first + count)) for first in range(0, devices, count)]
        try:
            return union_over(mean, var, self.axis_name, groups)
        except NotImplementedError as error:
            raise UsageError(
                f"{'/'.join(self.path)}: norm_scope device_group runs under jit with a sharded batch (axis_name None), "
                "under pmap, and under shard_map with check_vma=False; JAX has no groups under shard_map with check_vma"
            ) from error

    def _groups(self, devices: int) -> int:
        """Return the number of groups among so many devices."""
        size = self.group_devices
        if devices == 1:
            return 1
        if size is None or devices % size:
            raise UsageError(f"{'/'.join(self.path)}: {devices} devices are not groups of {size}: norm_group_devices")
        return devices // size

    def _parts(self, examples: int) -> int:
        """Return into how many parts with their own statistics the examples are divided."""
        match self.statistics:
            case "ghost":
                size = self.ghost_size
                if size is None or examples % size:
                    raise UsageError(
                        f"{'/'.join(self.path)}: {examples} examples cannot be cut into ghost batches of {size}"
                    )
                return examples // size
            case "device" if self.axis_name is None:
                if examples % self.devices:
                    raise UsageError(
                        f"{'/'.join(self.path)}: {examples} examples do not divide over {self.devices} devices"
                    )
                return self.devices
            case "device_group" if self.axis_name is None:
                groups = self._groups(self.devices)
                if examples % groups:
                    raise UsageError(
                        f"{'/'.join(self.path)}: {examples} examples do not divide over {groups} groups of devices"
                    )
                return groups
            case "global" | "device_group" | "device" | "frozen":
                return 1
            case _:
                assert_never(self.statistics)


class GroupNorm(nn.Module):
    """Normalize each example by the mean and variance of groups of its channels (Wu & He 2018, arXiv 1803.08494).

    One group is layer normalization over channels and positions; one group per channel is instance normalization. There
    are no running averages, so training and evaluation are the same function.

    Attributes:
        groups: number of groups; must divide the channels. None means one per channel.
        eps: added to the variance.
        dtype: dtype of the output; None keeps the input's. Statistics are float32 or wider.
        param_dtype: dtype of scale and bias.
        scale_init: initializer of the scale.
    """

    groups: int | None
    eps: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool = False) -> Float[Array, "n *spatial c"]:
        """Return the normalized ``x``; ``train`` makes no difference.

        Raises:
            UsageError: the number of groups does not divide the channels.
        """
        channels = x.shape[-1]
        groups = channels if self.groups is None else self.groups
        if channels % groups:
            raise UsageError(
                f"{'/'.join(self.path)}: {groups} groups do not divide {channels} channels; set norm_groups"
            )
        scale = self.param("scale", self.scale_init, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        wide = x.astype(at_least_float32(x.dtype))

        def over_group(channel: Array) -> Array:
            grouped = jnp.mean(channel.reshape(-1, groups, channels // groups), axis=-1, keepdims=True)
            return jnp.broadcast_to(grouped, (*grouped.shape[:2], channels // groups)).reshape(-1, channels)

        mean, var = union(*moments(wide), over_group)  # each example is a part, and each channel a part of its group
        y = normalize(wide, mean, lax.rsqrt(var + self.eps) * _rows(scale, var), _rows(bias, var))
        return y.astype(self.dtype or x.dtype)


class Affine(nn.Module):
    """Scale and shift each channel: what remains of a batch norm that cannot be folded into a convolution."""

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool = False) -> Float[Array, "n *spatial c"]:
        """Return ``x * scale + bias``; ``train`` makes no difference."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, channels, self.param_dtype)
        wide = x.astype(at_least_float32(x.dtype))
        gain, shift = (a.astype(wide.dtype)[None] for a in (scale, bias))
        return normalize(wide[None], jnp.zeros_like(gain), gain, shift)[0].astype(self.dtype or x.dtype)


class NoNorm(nn.Module):
    """The identity, in place of a norm."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Return ``x``."""
        return x


#: While :func:`leave_biased` is in effect: the number of values behind each norm of unbiased running variance, by path.
_COUNTS: ContextVar[dict[tuple[str, ...], int] | None] = ContextVar("counts", default=None)


@contextmanager
def leave_biased() -> Iterator[dict[tuple[str, ...], int]]:
    """Keep running variances biased while a network is traced, so that they can be pooled first and corrected
    afterwards.

    Yields:
        The number of values per channel behind the statistics of each batch norm with an unbiased running variance, by
        path.
    """
    counts: dict[tuple[str, ...], int] = {}
    token = _COUNTS.set(counts)
    try:
        yield counts
    finally:
        _COUNTS.reset(token)


def counted() -> dict[tuple[str, ...], int] | None:
    """Return the counts that the active :func:`leave_biased` collects, or None."""
    return _COUNTS.get()


def bessel(count: int, where: str) -> float:
    """Return n / (n - 1), the factor that makes a variance over n values unbiased.

    Raises:
        UsageError: n is 1.

    >>> bessel(5, "norm")
    1.25
    """
    if count < 2:
        raise UsageError(
            f"{where}: one value per channel has no unbiased variance; use more examples, or "
            "norm_running_variance biased"
        )
    return count / (count - 1)


def _rows(channel: Array, rows: Array) -> Array:
    """Repeat ``channel`` (C,) for each row of ``rows`` (parts, C), in its dtype."""
    return jnp.broadcast_to(channel.astype(rows.dtype), rows.shape)
