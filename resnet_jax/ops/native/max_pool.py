"""The compiled maximum over windows of images as JAX functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def max_pool(x: Array, **size: int) -> tuple[Array]:
    """See :mod:`resnet_jax.ops.max_pool`."""
    return _call("max_pool", _pooled(x, **size), x, **size)


def max_pool_gather(t: Array, x: Array, **size: int) -> tuple[Array]:
    """See :mod:`resnet_jax.ops.max_pool`."""
    return _call("max_pool_gather", _pooled(x, **size), t, x, **size)


def max_pool_scatter(g: Array, x: Array, **size: int) -> tuple[Array]:
    """See :mod:`resnet_jax.ops.max_pool`."""
    return _call("max_pool_scatter", x.shape, g, x, **size)


def _pooled(x: Array, *, window: int, stride: int, padding: int) -> tuple[int, ...]:
    n, *sides, c = x.shape
    return (n, *((side + 2 * padding - window) // stride + 1 for side in sides), c)


def _call(name: str, shape: tuple[int, ...], *operands: Array, **size: int) -> tuple[Array]:
    call = jax.ffi.ffi_call(f"resnet_jax_{name}", jax.ShapeDtypeStruct(shape, jnp.float32))
    return (call(*operands, **{name: np.int64(value) for name, value in size.items()}),)
