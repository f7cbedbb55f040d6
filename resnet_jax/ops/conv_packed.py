"""Convolution for inference with a kernel that was packed beforehand, once for a network.

For one image the kernels of a network's late layers come from memory, and to bring them into the order in which the
compiled convolution reads them takes as long as the products. So they can be packed before: what :func:`pack_kernel`
returns is an operand like any other, of one number of floats, which stands for the kernel on processors with the same
vectors. It says what it is; another processor or another convolution is an error when it is computed. It has no
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

    None where nothing would be gained, or there is no compiled form: see :func:`.finished_conv` for those.

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
    """Return what :func:`.finished_conv` does of the kernel that ``packed`` was made of.

    Sums may be in another order than there: a 3x3 convolution is Winograd's for images of any size.

    Args:
        x: float32.
        packed: what :func:`pack_kernel` returned.
        bias: one number a channel.
        skip: an array like the result.
        window: of the kernel.
        features: channels out.
        strides: as for :func:`pack_kernel`.
        padding: as for :func:`.conv`.
        relu: whether negative numbers become zero.

    Raises:
        TypeError: an operand is not float32.
        ValueError: when it is computed (JAX may make it a JaxRuntimeError): ``packed`` is of another convolution, or of
            a processor with other vectors.
    """
    more = [operand for operand in (bias, skip) if operand is not None]
    for operand in (x, packed, *more):
        if operand.dtype != jnp.float32:
            raise TypeError(f"a packed kernel is for float32 alone, got an operand of {operand.dtype}")
    return native.packed(
        x, packed, *more, window=window, features=features, strides=strides, padding=padding,
        bias=bias is not None, relu=relu,
    )  # fmt: skip
