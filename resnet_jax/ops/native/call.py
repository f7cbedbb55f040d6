"""The compiled convolutions as JAX functions, for the convolutions that they support."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from resnet_jax.ops.conv_spec import ConvSpec
from resnet_jax.ops.native.build import available


def takes(spec: ConvSpec, dtype: Any) -> bool:
    """Return whether there is a compiled form: float32 images, a single stride of 1 or 2, no dilation and no groups."""
    return (
        dtype == jnp.float32
        and spec.dims == 2
        and spec.strides in ((1, 1), (2, 2))
        and spec.dilation == (1, 1)
        and spec.groups == 1
        and available()
    )


def forward(x: Array, w: Array, spec: ConvSpec) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.forward`."""
    sides = zip(spec.size, spec.window, spec.strides, spec.padding, strict=True)
    out = [(size + 2 * pad - window) // stride + 1 for size, window, stride, pad in sides]
    return _call("conv_forward", (x.shape[0], *out, w.shape[-1]), x, w, spec)


def input_gradient(g: Array, w: Array, spec: ConvSpec) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.input_gradient`."""
    return _call("conv_input_gradient", (g.shape[0], *spec.size, w.shape[-2]), g, w, spec)


def weight_gradient(x: Array, g: Array, spec: ConvSpec) -> Array:
    """See :func:`resnet_jax.ops.conv_spec.weight_gradient`."""
    return _call("conv_weight_gradient", (*spec.window, x.shape[-1], g.shape[-1]), x, g, spec)


def _call(name: str, shape: tuple[int, ...], a: Array, b: Array, spec: ConvSpec) -> Array:
    call = jax.ffi.ffi_call(f"resnet_jax_{name}", jax.ShapeDtypeStruct(shape, jnp.float32))
    pad_y, pad_x = spec.padding
    return call(a, b, stride=np.int64(spec.strides[0]), pad_y=np.int64(pad_y), pad_x=np.int64(pad_x))
