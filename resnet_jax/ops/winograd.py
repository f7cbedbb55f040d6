"""Winograd's minimal filtering F(2x2, 3x3): 16 multiplications where a direct 3x3 convolution needs 36.

Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks* (arXiv 1509.09308, section 4.1). A 2x2 patch of the
output comes from a 4x4 patch of the input:

    Y = Aᵀ [(G w Gᵀ) ⊙ (Bᵀ d B)] A

The product in the middle is, over all patches and channels, one matrix product for each of the 16 positions. The weight
gradient is the transpose of the same formula in ``w``. All sums have few terms with factors 1 and 1/2, so in float32
the results differ from a direct convolution by about 1e-6 of their largest value.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

G = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])


def kernel_transform(w: Float[Array, "3 3 c k"]) -> Float[Array, "16 c k"]:
    """Return ``G w Gᵀ`` at its 16 positions."""
    g = jnp.asarray(G, w.dtype)
    return jnp.einsum("ai,bj,ijck->abck", g, g, w).reshape(16, *w.shape[2:])


def kernel_transform_transposed(m: Float[Array, "16 c k"]) -> Float[Array, "3 3 c k"]:
    """Return ``Gᵀ m G``: the transpose of :func:`kernel_transform`."""
    g = jnp.asarray(G, m.dtype)
    return jnp.einsum("ai,bj,abck->ijck", g, g, m.reshape(4, 4, *m.shape[1:]))


def convolve(x: Float[Array, "n h w c"], u: Float[Array, "16 c k"]) -> Float[Array, "n h w k"]:
    """Convolve ``x``, of even height and width and padded by 1, with the kernel whose transform is ``u``."""
    n, h, w, _ = x.shape
    product = lax.dot_general(_input_transform(x), u, (((2,), (1,)), ((0,), (0,))))
    m = product.reshape(4, 4, n, h // 2, w // 2, -1)
    rows = (m[0] + m[1] + m[2], m[1] - m[2] - m[3])
    y = [jnp.stack([r[0] + r[1] + r[2], r[1] - r[2] - r[3]], axis=3) for r in rows]
    return jnp.stack(y, axis=2).reshape(n, h, w, -1)


def correlate(x: Float[Array, "n h w c"], g: Float[Array, "n h w k"]) -> Float[Array, "16 c k"]:
    """Return the gradient for the result of :func:`kernel_transform`, from an input and the cotangent of the output."""
    return lax.dot_general(_input_transform(x), _output_transform_transposed(g), (((1,), (1,)), ((0,), (0,))))


def _input_transform(x: Float[Array, "n h w c"]) -> Float[Array, "16 p c"]:
    """Return ``Bᵀ d B`` at its 16 positions, for the patches ``d`` of ``x`` padded by 1."""
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    every_other = [lax.slice(x, (0, i, 0, 0), (n, i + h - 1, w + 2, c), (1, 2, 1, 1)) for i in range(4)]
    parts = []
    for row in _combine(every_other):
        columns = [lax.slice(row, (0, 0, j, 0), (n, h // 2, j + w - 1, c), (1, 1, 2, 1)) for j in range(4)]
        parts += _combine(columns)
    return jnp.stack(parts).reshape(16, -1, c)


def _combine(d: list[Array]) -> list[Array]:
    """Return the four entries of ``Bᵀ d``."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _output_transform_transposed(g: Float[Array, "n h w k"]) -> Float[Array, "16 p k"]:
    """Return ``A g Aᵀ`` at its 16 positions, for the 2x2 patches of ``g``."""
    n, h, w, k = g.shape
    patches = g.reshape(n, h // 2, 2, w // 2, 2, k)
    rows = _spread(patches[:, :, 0], patches[:, :, 1])
    parts = [part for row in rows for part in _spread(row[:, :, :, 0], row[:, :, :, 1])]
    return jnp.stack(parts).reshape(16, -1, k)


def _spread(a: Array, b: Array) -> list[Array]:
    """Return the four entries of ``A (a, b)ᵀ``."""
    return [a, a + b, a - b, -b]
