"""The compiled sums over positions as JAX functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array


def moments(x: Array) -> tuple[Array, Array]:
    """See :func:`resnet_jax.ops.channels.moments`; float32."""
    return _call("channel_moments", x)


def collect(*operands: Array) -> tuple[Array, Array]:
    """See :func:`resnet_jax.ops.channels.collect`; float32."""
    return _call("channel_collect" if len(operands) == 3 else "channel_collect_masked", *operands)


def _call(name: str, *operands: Array) -> tuple[Array, Array]:
    x = operands[0]
    out = jax.ShapeDtypeStruct((x.shape[0], x.shape[-1]), jnp.float32)
    first, second = jax.ffi.ffi_call(f"resnet_jax_{name}", (out, out))(*operands)
    return first, second
