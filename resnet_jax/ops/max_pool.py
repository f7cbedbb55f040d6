"""Maximum over windows as a family of three primitives, closed under differentiation and batching.

``max_pool_gather(t, x)`` takes the numbers of ``t`` at the position of the first maximum of each window of ``x``: the
tangent of the maximum. ``max_pool_scatter(g, x)`` adds the numbers of the windows at these positions: its gradient.
Both are linear in their first operand, each is the transpose of the other, and the positions do not depend
differentiably on ``x``.

XLA:CPU takes a hundred times longer for the gradient than for reading the image; there the three are compiled for
float32 images (``native/pool.cc``). On a GPU, XLA writes two four-byte indices for each window, clears a float32 image
and adds to it; there the gradient of an image is gathered, using one byte for each window. Everywhere else they are
what JAX makes of ``reduce_window``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad
from jaxtyping import Array

from resnet_jax.ops import native
from resnet_jax.ops.dtypes import at_least_float32
from resnet_jax.ops.lowering import leading_axis_primitive


def plain_max_pool(x: Array, *, window: int, stride: int, padding: int) -> tuple[Array]:
    """Return the maximum as ``lax`` computes it."""
    dims = x.ndim - 2
    pads: Any = ((padding, padding),) * dims  # annotated as str in Flax, documented as pairs
    return (nn.max_pool(x, window_shape=(window,) * dims, strides=(stride,) * dims, padding=pads),)


def _plain_gather(t: Array, x: Array, **size: int) -> tuple[Array]:
    return jax.jvp(lambda x: plain_max_pool(x, **size), (x,), (t,))[1]


def _plain_scatter(g: Array, x: Array, **size: int) -> tuple[Array]:
    return jax.vjp(lambda x: plain_max_pool(x, **size), x)[1]((g,))


#: Maximum number of positions in a window that are unrolled for a GPU.
UNROLLED = 25


def _scatter_on_gpu(g: Array, x: Array, *, window: int, stride: int, padding: int) -> tuple[Array]:
    """Return for each position the sum, in float32 or wider, of ``g`` over the windows whose maximum it is."""
    if x.ndim != 4 or window**2 > UNROLLED or padding >= window:
        return _plain_scatter(g, x, window=window, stride=stride, padding=padding)
    sizes, outs = x.shape[1:3], g.shape[1:3]
    low = jnp.asarray(-jnp.inf, x.dtype)
    pads = [((out - 1) * stride + window - padding - size) for out, size in zip(outs, sizes, strict=True)]
    framed = lax.pad(x, low, [(0, 0, 0), (padding, pads[0], 0), (padding, pads[1], 0), (0, 0, 0)])
    places = [(i, j) for i in range(window) for j in range(window)]
    ends = [(out - 1) * stride + 1 for out in outs]
    best, place = None, jnp.zeros(g.shape, jnp.int8)
    for number, (i, j) in enumerate(places):
        seen = framed[:, i : i + ends[0] : stride, j : j + ends[1] : stride]
        if best is None:
            best = seen
            continue
        larger = (seen > best) | (seen != seen) & (best == best)
        best, place = jnp.where(larger, seen, best), jnp.where(larger, jnp.int8(number), place)
    place = lax.optimization_barrier(place)
    wide = g.astype(at_least_float32(g.dtype))
    total = jnp.zeros(x.shape, wide.dtype)
    for number, (i, j) in enumerate(places):
        here = jnp.where(place == number, wide, jnp.zeros((), wide.dtype))
        edges = [
            (first - padding, size - end - (first - padding), stride - 1)
            for first, size, end in zip((i, j), sizes, ends, strict=True)
        ]
        total += lax.pad(here, jnp.zeros((), wide.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    return (lax.optimization_barrier(total.astype(g.dtype)),)  # once, instead of in every kernel that reads it


def _of_images(
    compiled: Callable[..., tuple[Array]], plain: Callable[..., tuple[Array]]
) -> Callable[..., tuple[Array]]:
    """Use the compiled form for images, and the plain one for other dimensions and for windows with nothing but
    padding.
    """

    def form(*operands: Array, window: int, stride: int, padding: int) -> tuple[Array]:
        taken = compiled if operands[-1].ndim == 4 and padding < window else plain
        return taken(*operands, window=window, stride=stride, padding=padding)

    return form


max_pool_p = leading_axis_primitive("max_pool", plain_max_pool, _of_images(native.max_pool, plain_max_pool))
gather_p = leading_axis_primitive("max_pool_gather", _plain_gather, _of_images(native.max_pool_gather, _plain_gather))
scatter_p = leading_axis_primitive(
    "max_pool_scatter", _plain_scatter, _of_images(native.max_pool_scatter, _plain_scatter), _scatter_on_gpu
)


def _max_pool_jvp(primals, tangents, **size):
    (x,), (dx,) = primals, tangents
    y = max_pool_p.bind(x, **size)
    return y, gather_p.bind(dx, x, **size)


def _make_linear(primitive: Primitive, transposed: Primitive) -> None:
    """Give ``primitive(a, x)`` the derivatives of a function that is linear in ``a`` and constant in ``x``."""

    def jvp(primals, tangents, **size):
        (a, x), (da, _) = primals, tangents
        out = primitive.bind(a, x, **size)
        if isinstance(da, ad.Zero):
            return out, [ad.Zero(jax.typeof(out[0]))]
        return out, primitive.bind(da, x, **size)

    def transpose(cotangents, a, x, **size):
        del a
        return *transposed.bind(ad.instantiate_zeros(cotangents[0]), x, **size), None

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose


ad.primitive_jvps[max_pool_p] = _max_pool_jvp
_make_linear(gather_p, scatter_p)
_make_linear(scatter_p, gather_p)
