"""Batch normalization (Ioffe & Szegedy 2015) with an explicit mode, f32 statistics and no cancellation."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from resnet_jax.ops import at_least_float32


class BatchNorm(nn.Module):
    """Normalize each channel by the mean and variance of the batch (train) or by their running averages (eval).

    Differences from ``flax.linen.BatchNorm``, each of which has cost somebody an experiment:

    * ``train`` is an argument of the call. It is never inferred from what is mutable.
    * The variance is the mean squared distance from the mean, in float32 or wider, whatever the compute dtype. The
      usual E[x^2] - E[x]^2 cancels for |mean| >> std (raw pixels).
    * The running variance is the biased one of the batch, like Flax's; PyTorch keeps n / (n - 1) times that.

    The statistics are those of the whole array the module sees. Under ``jit`` with a sharded batch this is the global
    batch ("sync BN" for free). Inside ``pmap`` or ``shard_map`` name the mapped axis in ``axis_name`` to get the same.

    Attributes:
        momentum: weight of the *old* running average (0.9 here is 0.1 in PyTorch).
        eps: added to the variance.
        dtype: of the output; None keeps the input's.
        param_dtype: of scale and bias.
        scale_init: initializer of gamma; zeros for "zero-init of the last gamma" (Goyal et al. 2017, section 5.1).
        axis_name: mapped axis to average the statistics over, if any.
    """

    momentum: float = 0.9
    eps: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    scale_init: Initializer = nn.initializers.ones
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool) -> Float[Array, "n *spatial c"]:
        """Return the normalized ``x``; with ``train`` also move the running averages in ``batch_stats``.

        Raises:
            ValueError: ``train`` without ``mutable=['batch_stats']``: the new statistics would have nowhere to go.
        """
        channels = (x.shape[-1],)
        stat_dtype = at_least_float32(x.dtype)
        scale = self.param("scale", self.scale_init, channels, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, channels, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, stat_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, stat_dtype)

        wide = x.astype(stat_dtype)
        if train:
            mean = self._average(wide)
            var = self._average(jnp.square(wide - _broadcast(mean, x.ndim)))
            if not self.is_initializing():
                if not self.is_mutable_collection("batch_stats"):
                    raise ValueError(
                        f"{'/'.join(self.path)}: train=True moves the running statistics; "
                        "call model.apply(..., train=True, mutable=['batch_stats'])"
                    )
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        else:
            mean, var = running_mean.value, running_var.value

        gain = lax.rsqrt(var + self.eps) * scale.astype(stat_dtype)
        y = (wide - _broadcast(mean, x.ndim)) * _broadcast(gain, x.ndim)
        y = y + _broadcast(bias.astype(stat_dtype), x.ndim)
        return y.astype(self.dtype or x.dtype)

    def _average(self, x: Array) -> Array:
        mean = jnp.mean(x, axis=tuple(range(x.ndim - 1)))
        return lax.pmean(mean, self.axis_name) if self.axis_name is not None else mean


def _broadcast(channel: Array, ndim: int) -> Array:
    return channel.reshape((1,) * (ndim - 1) + channel.shape)
