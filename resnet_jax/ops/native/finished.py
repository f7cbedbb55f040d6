"""The compiled convolution for inference, with the operations that follow it, as a JAX function."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from resnet_jax.ops.native.build import available


def takes_finished(dims: int, *, strides: Sequence[int], dilation: Sequence[int], groups: int, **_: object) -> bool:
    """Return whether there is a compiled form for float32: images, a single stride of 1 or 2, no dilation, no
    groups.
    """
    plain = dims == 2 and tuple(strides) in ((1, 1), (2, 2)) and tuple(dilation) == (1, 1) and groups == 1
    return plain and available()


def finished(
    x: Array, kernel: Array, *more: Array, strides: Sequence[int], padding: Sequence[int], bias: bool, relu: bool,
    **_: object,
) -> Array:  # fmt: skip
    """See :func:`resnet_jax.ops.conv_finished.plain_finished`."""
    sides = zip(x.shape[1:3], kernel.shape[:2], strides, padding, strict=True)
    out = [(size + 2 * pad - window) // stride + 1 for size, window, stride, pad in sides]
    shape = jax.ShapeDtypeStruct((x.shape[0], *out, kernel.shape[-1]), jnp.float32)
    pad_y, pad_x = (np.int64(pad) for pad in padding)
    call = jax.ffi.ffi_call("resnet_jax_conv_finished", shape)
    return call(x, kernel, *more, stride=np.int64(strides[0]), pad_y=pad_y, pad_x=pad_x, bias=bias, relu=relu)
