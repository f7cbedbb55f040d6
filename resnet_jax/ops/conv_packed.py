"""Convolution for inference with a kernel that was packed beforehand, once per network.

For a single image, the kernels of a network's late layers come from memory, and reordering them for the compiled
convolution takes as long as the products. They can therefore be packed in advance: the result of :func:`pack_kernel` is
an ordinary operand, a flat array of floats, that stands for the kernel on processors with the same vector width. It
describes itself, so that using it with another processor or another convolution is an error at run time. It has no
derivative, no ``vmap`` and no form for accelerators: keep the kernel for those.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.ops import native


def pack_kernel(
    kernel: Float[Array, "*window c_in_per_group c_out"],
    *,
    strides: Sequence[int],
    dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> Float[Array, " floats"] | None:
    """Return a kernel packed for :func:`packed_conv` on this processor.

    The result is None if packing gains nothing or if there is no compiled form; use :func:`.finished_conv` then.

    Args:
        kernel: float32, as for :func:`.conv`.
        strides: as for :func:`.conv`.
        dilation: as for :func:`.conv`.
        groups: as for :func:`.conv`.

    >>> pack_kernel(jnp.ones((3, 3, 4, 8)), strides=(1, 1)) is None  # so few channels
    True
    """
    sizes = {"strides": strides, "dilation": dilation, "groups": groups}
    if kernel.dtype != jnp.float32 or not native.packed_floats(kernel.shape, **sizes):
        return None
    return native.pack(kernel, strides=strides)


def packed_conv(
    x: Float[Array, "n h w c_in"],
    packed: Float[Array, " floats"],
    bias: Float[Array, " c_out"] | None = None,
    skip: Float[Array, "n out_h out_w c_out"] | None = None,
    *,
    window: Sequence[int],
    features: int,
    strides: Sequence[int],
    padding: Sequence[int],
    relu: bool = False,
) -> Float[Array, "n out_h out_w c_out"]:
    """Return the result of :func:`.finished_conv` for the kernel that ``packed`` was made from.

    Sums may be in another order than there: a 3x3 convolution uses Winograd's algorithm for images of any size.

    Args:
        x: float32.
        packed: the result of :func:`pack_kernel`.
        bias: one number per channel.
        skip: an array with the shape of the result.
        window: window of the kernel.
        features: output channels.
        strides: as for :func:`pack_kernel`.
        padding: as for :func:`.conv`.
        relu: whether to apply a ReLU.

    Raises:
        TypeError: an operand is not float32.
        ValueError: at run time (JAX may turn it into a JaxRuntimeError): ``packed`` belongs to another convolution, or
            to a processor with another vector width.
    """
    more = [operand for operand in (bias, skip) if operand is not None]
    for operand in (x, packed, *more):
        if operand.dtype != jnp.float32:
            raise TypeError(f"a packed kernel is for float32 alone, got an operand of {operand.dtype}")
    return native.packed(
        x, packed, *more, window=window, features=features, strides=strides, padding=padding,
        bias=bias is not None, relu=relu,
    )  # fmt: skip
