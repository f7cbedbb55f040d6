"""Gradients of a convolution written as plain convolutions in the dimension order of a forward one.

``lax``'s own transposes name their dimensions in other orders (``f01b_i01o->01bf``). XLA:CPU reorders those only in a
program's entry computation (jax#12868). Inside ``scan``, ``while`` or a rematerialized block they fall back to a naive
loop that is 10 to 27 times slower, and with groups they always do. Everything below is ``NHWC, HWIO -> NHWC`` (or the
equivalent in one and three dimensions) with explicit transpositions; the sums are the same.

A window of one tap is a matrix product, which is fast everywhere.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from resnet_jax.ops.conv_spec import ConvSpec, channels_last


def input_gradient(g: Array, w: Array, spec: ConvSpec) -> Array:
    """Convolve ``g``, dilated by the strides, with the flipped kernel; see :mod:`resnet_jax.ops.conv_spec`."""
    *window, c, k = w.shape
    axes = tuple(range(spec.dims))
    w = jnp.flip(w, axes).reshape(*window, c, spec.groups, k // spec.groups)
    w = jnp.moveaxis(w, (-3, -2, -1), (-1, -2, -3)).reshape(*window, k // spec.groups, spec.groups * c)
    return lax.conv_general_dilated(
        g,
        w,
        window_strides=(1,) * spec.dims,
        padding=[(reach - low, reach - high) for reach, low, high in _borders(g, spec)],
        lhs_dilation=spec.strides,
        rhs_dilation=spec.dilation,
        dimension_numbers=channels_last(spec.dims),
        feature_group_count=spec.groups,
    )


def weight_gradient(x: Array, g: Array, spec: ConvSpec) -> Array:
    """Convolve ``x``, its channels as batch, with ``g`` as the kernel; see :mod:`resnet_jax.ops.conv_spec`."""
    n, *size, c = x.shape
    x = x.reshape(n, *size, spec.groups, c // spec.groups)
    x = jnp.moveaxis(x, (-1, -2, 0), (0, -2, -1)).reshape(c // spec.groups, *size, spec.groups * n)
    w = lax.conv_general_dilated(
        x,
        jnp.moveaxis(g, 0, -2),
        window_strides=spec.dilation,
        padding=[(low, high) for _, low, high in _borders(g, spec)],
        rhs_dilation=spec.strides,
        dimension_numbers=channels_last(spec.dims),
        feature_group_count=spec.groups,
    )
    return jnp.moveaxis(w, 0, -2)


def weight_gradient_by_taps(x: Array, g: Array, spec: ConvSpec) -> Array:
    """Contract one tap after another over the batch, which the compiler may have split over devices.

    :func:`weight_gradient` merges the groups and the batch into one dimension, for which a split batch would be
    gathered.
    """
    x = jnp.pad(x, ((0, 0), *((pad, pad) for pad in spec.padding), (0, 0)))
    g = g.reshape(*g.shape[:-1], spec.groups, -1)
    contracted, grouped = tuple(range(spec.dims + 1)), (spec.dims + 1,)
    products = []
    for tap in np.ndindex(*spec.window):
        first = [i * dilation for i, dilation in zip(tap, spec.dilation, strict=True)]
        last = [f + (out - 1) * s + 1 for f, out, s in zip(first, g.shape[1:-2], spec.strides, strict=True)]
        met = lax.slice(x, (0, *first, 0), (x.shape[0], *last, x.shape[-1]), (1, *spec.strides, 1))
        met = met.reshape(*met.shape[:-1], spec.groups, -1)
        products.append(lax.dot_general(met, g, ((contracted, contracted), (grouped, grouped))))
    w = jnp.moveaxis(jnp.stack(products), 1, 2)  # (taps, c / groups, groups, k / groups)
    return w.reshape(*spec.window, w.shape[1], -1)


def _borders(g: Array, spec: ConvSpec) -> list[tuple[int, int, int]]:
    """Return per dimension how far a window reaches past its first tap, and the padding that ``g`` really used.

    If the strides do not cover the input exactly, the upper padding is below the nominal one and may be negative.
    """
    result = []
    for size, window, stride, pad, dilation, out in zip(
        spec.size, spec.window, spec.strides, spec.padding, spec.dilation, g.shape[1:-1], strict=True
    ):
        reach = (window - 1) * dilation
        result.append((reach, pad, (out - 1) * stride + 1 + reach - size - pad))
    return result


def pointwise_forward(x: Array, w: Array, spec: ConvSpec) -> Array:
    """Multiply the pixels selected by the strides with the only tap of ``w``."""
    return lax.dot_general(_subsample(x, spec), w.reshape(w.shape[-2:]), (((x.ndim - 1,), (0,)), ((), ())))


def pointwise_input_gradient(g: Array, w: Array, spec: ConvSpec) -> Array:
    """Multiply with the transposed tap, and insert zeros at the pixels that the strides skipped."""
    x = lax.dot_general(g, w.reshape(w.shape[-2:]), (((g.ndim - 1,), (1,)), ((), ())))
    if all(stride == 1 for stride in spec.strides):
        return x
    inner = [
        (0, size - (out - 1) * stride - 1, stride - 1)
        for size, stride, out in zip(spec.size, spec.strides, g.shape[1:-1], strict=True)
    ]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])


def pointwise_weight_gradient(x: Array, g: Array, spec: ConvSpec) -> Array:
    """Sum the products of all pixels of ``x`` and ``g``."""
    contracted = tuple(range(g.ndim - 1))
    w = lax.dot_general(_subsample(x, spec), g, ((contracted, contracted), ((), ())))
    return w.reshape(*spec.window, *w.shape)


def _subsample(x: Array, spec: ConvSpec) -> Array:
    return x[(slice(None), *(slice(None, None, stride) for stride in spec.strides))]
