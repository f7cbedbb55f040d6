"""Kernels packed beforehand, once per network, and the convolution for inference with them, as JAX functions."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from resnet_jax.ops.native.build import available, integer


def packed_floats(
    shape: Sequence[int], *, strides: Sequence[int], dilation: Sequence[int] | None = None, groups: int = 1
) -> int:
    """Return the number of floats of a packed kernel of ``shape`` (height, width, C, K); 0 if it is not packed."""
    taken = (
        len(shape) == 4
        and tuple(strides) in ((1, 1), (2, 2))
        and tuple(dilation or (1, 1)) == (1, 1)
        and groups == 1
        and available()
    )
    return integer("packed_floats", *shape, strides[0]) if taken else 0


def pack(kernel: Array, *, strides: Sequence[int]) -> Array:
    """Return a kernel, float32 (height, width, C, K) with :func:`packed_floats`, in the order this processor reads
    it.
    """
    size = packed_floats(kernel.shape, strides=strides)
    call = jax.ffi.ffi_call("resnet_jax_pack_kernel", jax.ShapeDtypeStruct((size,), jnp.float32))
    return call(kernel, stride=np.int64(strides[0]))


def packed(
    x: Array, kernel: Array, *more: Array, window: Sequence[int], features: int, strides: Sequence[int],
    padding: Sequence[int], bias: bool, relu: bool,
) -> Array:  # fmt: skip
    """See :func:`resnet_jax.ops.conv_packed.packed_conv`; ``more`` is the bias, if any, and the skip."""
    sides = zip(x.shape[1:3], window, strides, padding, strict=True)
    out = [(size + 2 * pad - taps) // stride + 1 for size, taps, stride, pad in sides]
    call = jax.ffi.ffi_call("resnet_jax_conv_packed", jax.ShapeDtypeStruct((x.shape[0], *out, features), jnp.float32))
    (rows, columns), (pad_y, pad_x) = (map(np.int64, pair) for pair in (window, padding))
    return call(
        x, kernel, *more, rows=rows, columns=columns, stride=np.int64(strides[0]), pad_y=pad_y, pad_x=pad_x,
        bias=bias, relu=relu,
    )  # fmt: skip
