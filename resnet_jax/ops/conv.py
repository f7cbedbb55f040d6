"""Convolution over any number of spatial dimensions with PyTorch's explicit, symmetric padding.

``'SAME'`` pads a stride-2 convolution by (0, 1) where PyTorch pads (1, 1). The outputs then differ already in the first
layer (flax#963, #2993), and no real weight file would give its own logits. Padding is therefore always a number here.

The algorithm depends on the platform that the code is compiled for (:mod:`resnet_jax.ops.conv_primitive`), unless plain
``lax`` is requested (:func:`resnet_jax.ops.reference_forms`).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jaxtyping import Array, Float

from resnet_jax.ops import conv_spec
from resnet_jax.ops.conv_primitive import forward_p
from resnet_jax.ops.conv_spec import ConvSpec
from resnet_jax.ops.lowering import vary_alike
from resnet_jax.ops.reference import plain_lax_wanted


def conv(
    x: Float[Array, "n *spatial c_in"],
    kernel: Float[Array, "*window c_in_per_group c_out"],
    *,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> Float[Array, "n *out c_out"]:
    """Cross-correlate ``x`` with ``kernel``.

    Args:
        x: input, ``(N, *spatial, C)`` with one to three spatial dimensions.
        kernel: ``(*window, C // groups, out)``, with the dtype of ``x``.
        strides: one per spatial dimension.
        padding: zeros added on **both** sides of each spatial dimension.
        dilation: distance between kernel taps, one per spatial dimension (default 1).
        groups: number of channel groups (ResNeXt's cardinality).

    >>> import jax.numpy as jnp
    >>> conv(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 16)), strides=(2, 2), padding=(1, 1)).shape
    (1, 4, 4, 16)
    """
    x, kernel = vary_alike(x, kernel)
    spec = ConvSpec(
        size=x.shape[1:-1],
        window=kernel.shape[:-2],
        strides=tuple(strides),
        padding=tuple(padding),
        dilation=tuple(dilation or (1,) * len(strides)),
        groups=groups,
        precision=jax.config.jax_default_matmul_precision,  # pyright: ignore[reportAttributeAccessIssue]
    )
    if plain_lax_wanted():
        return conv_spec.forward(x, kernel, spec)
    return forward_p.bind(x, kernel, spec=spec, members=(False, False))
