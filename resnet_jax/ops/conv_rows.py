"""The weight gradient of a stride-1 convolution over images as one matrix product per tile.

For every tap ``(i, j)`` the gradient is ``sum over pixels of x[y + i, z + j] gᵀ[y, z]``. Moving the rows of ``g``
instead of those of ``x`` separates the two shifts. With ``J`` horizontally shifted copies of ``x`` side by side, and
``I`` vertically shifted copies of ``g``, one product of ``(J c, pixels)`` with ``(pixels, I k)`` contains all taps, and
nothing in it is wasted. Only ``J + I`` copies are made, where im2col makes ``J I``.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def correlate(
    x: Float[Array, "n h w c"], g: Float[Array, "n out_h out_w k"], window: tuple[int, ...], padding: tuple[int, ...]
) -> Float[Array, "J_c I_k"]:
    """Return the products for all taps; :func:`to_kernel` rearranges them as a kernel."""
    (rows, columns), (top, left) = window, padding
    _, h, _, c = x.shape
    _, out_h, out_w, k = g.shape
    x = jnp.pad(x, ((0, 0), (0, 0), (left, left), (0, 0)))
    x = jnp.concatenate([x[:, :, j : j + out_w] for j in range(columns)], axis=-1)
    # Row y of x meets row y + top - i of g, for i = 0 .. rows - 1.
    before, after = max(0, rows - 1 - top), max(0, h + top - out_h)
    g = jnp.pad(g, ((0, 0), (before, after), (0, 0), (0, 0)))
    first = [before + top - i for i in range(rows)]
    g = jnp.concatenate([g[:, start : start + h] for start in first], axis=-1)
    return lax.dot_general(x.reshape(-1, columns * c), g.reshape(-1, rows * k), (((0,), (0,)), ((), ())))


def to_kernel(products: Float[Array, "J_c I_k"], window: tuple[int, ...], k: int) -> Float[Array, "I J c k"]:
    """Return the kernel's gradient from the sum of the results of :func:`correlate`."""
    rows, columns = window
    return products.reshape(columns, -1, rows, k).transpose(2, 0, 1, 3)
