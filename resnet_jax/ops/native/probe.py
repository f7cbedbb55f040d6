"""The compiled passes of a probed backward step as JAX functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array


def squares(g: Array) -> tuple[Array]:
    """See :mod:`resnet_jax.ops.probe`; float32."""
    return (jax.ffi.ffi_call("resnet_jax_probe_squares", jax.ShapeDtypeStruct(g.shape[:1], jnp.float32))(g),)


def join(*operands: Array) -> tuple[Array, Array]:
    """See :mod:`resnet_jax.ops.probe`; float32. The sum reuses the first operand's memory if nothing else needs it."""
    a = operands[0]
    out = (jax.ShapeDtypeStruct(a.shape, jnp.float32), jax.ShapeDtypeStruct(a.shape[:1], jnp.float32))
    name = "probe_join" if len(operands) == 2 else "probe_join_masked"
    total, norm = jax.ffi.ffi_call(f"resnet_jax_{name}", out, input_output_aliases={0: 0})(*operands)
    return total, norm
