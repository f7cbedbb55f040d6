"""Pooling over any number of spatial dimensions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.ops.channels import moments
from resnet_jax.ops.dtypes import at_least_float32
from resnet_jax.ops.max_pool import max_pool_p, plain_max_pool
from resnet_jax.ops.reference import plain_lax_wanted


def max_pool(x: Float[Array, "n *spatial c"], *, window: int, stride: int, padding: int) -> Float[Array, "n *out c"]:
    """Maximum over square windows; padding never counts (its value is -inf, as in PyTorch).

    The gradient goes to the first maximum of a window.

    >>> max_pool(jnp.asarray([1.0, 3.0, 2.0]).reshape(1, 3, 1), window=2, stride=1, padding=0).ravel().tolist()
    [3.0, 3.0]
    """
    pool = plain_max_pool if plain_lax_wanted() else max_pool_p.bind
    (y,) = pool(x, window=window, stride=stride, padding=padding)
    return y


def mean_pool_2(x: Float[Array, "n *spatial c"]) -> Float[Array, "n *out c"]:
    """Mean over windows of side 2, stride 2; windows at an odd edge average only what exists (ResNet-D's shortcut).

    This is PyTorch's ``AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)``.

    >>> mean_pool_2(jnp.arange(3.0).reshape(1, 3, 1)).ravel().tolist()
    [0.5, 2.0]
    """
    dims = x.ndim - 2
    pads: Any = tuple((0, size % 2) for size in x.shape[1:-1])
    with jax.numpy_dtype_promotion("standard"):  # Flax divides by counts in float32
        y = nn.avg_pool(x, window_shape=(2,) * dims, strides=(2,) * dims, padding=pads, count_include_pad=False)
    return y.astype(x.dtype)


def global_mean_pool(x: Float[Array, "n *spatial c"]) -> Float[Array, "n c"]:
    """Mean over all spatial positions, accumulated and returned in float32 or wider.

    >>> global_mean_pool(jnp.ones((2, 4, 4, 3), jnp.bfloat16)).dtype
    dtype('float32')
    """
    x = x.astype(at_least_float32(x.dtype))
    if plain_lax_wanted():
        return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
    mean, _ = moments(x)  # XLA on the CPU would take 2 % of an inference for it
    return mean


def global_max_pool(x: Float[Array, "n *spatial c"]) -> Float[Array, "n c"]:
    """Maximum over all spatial positions, returned in float32 or wider; the gradient goes to the first maximum.

    The gradient of ``jnp.max`` checks again which values equal the maximum. If a compiler computes them twice with
    different rounding, it finds none, and the gradient is divided by zero. Here the position is found once and used for
    both.

    >>> global_max_pool(jnp.asarray([1.0, 3.0, 3.0]).reshape(1, 3, 1)).tolist()
    [[3.0]]
    """
    x = x.astype(at_least_float32(x.dtype)).reshape(x.shape[0], -1, x.shape[-1])
    first = jnp.argmax(x, axis=1)[:, None]
    there = jax.lax.broadcasted_iota(first.dtype, x.shape, 1) == first
    return jnp.sum(jnp.where(there, x, jnp.zeros((), x.dtype)), axis=1)
