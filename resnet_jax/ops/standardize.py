"""Weight standardization: every output unit's weights get mean 0 and a fixed variance before they are used."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.ops.dtypes import at_least_float32


def standardize(kernel: Float[Array, "*window i o"], eps: float) -> Float[Array, "*window i o"]:
    """Return ``(w - mean) / sqrt(var + eps)`` per output unit (Qiao et al. 2019, arXiv 1903.10520, eq. 5).

    Mean and (biased) variance are over the window and the input channels, in float32 or wider.

    >>> w = standardize(jnp.arange(18.0).reshape(3, 3, 2, 1), 1e-10)
    >>> bool(abs(w.mean()) < 1e-6), round(float(w.std()), 4)
    (True, 1.0)
    """
    wide = kernel.astype(at_least_float32(kernel.dtype))
    axes = tuple(range(kernel.ndim - 1))
    centred = wide - jnp.mean(wide, axis=axes, keepdims=True)
    var = jnp.mean(jnp.square(centred), axis=axes, keepdims=True)
    return (centred * lax.rsqrt(var + eps)).astype(kernel.dtype)


def scaled_standardize(
    kernel: Float[Array, "*window i o"], gain: Float[Array, " o"], eps: float
) -> Float[Array, "*window i o"]:
    """Return ``gain (w - mean) / sqrt(fan_in (var + eps))`` (Brock et al. 2021, arXiv 2101.08692, eq. 1).

    With gain 1, a convolution with these weights preserves the variance of an input with independent channels.
    """
    fan_in = math.prod(kernel.shape[:-1])
    scale = (gain / math.sqrt(fan_in)).reshape((1,) * (kernel.ndim - 1) + gain.shape)
    return standardize(kernel, eps) * scale.astype(kernel.dtype)
