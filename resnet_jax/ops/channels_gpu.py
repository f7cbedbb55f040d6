"""How the sums of :mod:`~resnet_jax.ops.channels` are taken on a GPU: in one pass over the array, and few kernels.

A sum over positions is two kernels there: blocks of threads add up pieces of the array, and a second, small kernel adds
what they found. XLA cuts as it likes, and would read the array once for the mean and again for the variance. Here the
pieces are said, and each has a *shift* of its own, its first row:

    s1 = sum(x - shift),  s2 = sum((x - shift)^2)             one kernel for both, reads the array once
    d = shift - shift_0 + s1 / k                              of a piece: its mean, less the first row of all
    q = s2 - s1^2 / k                                         and the sum of squared distances from its mean
    mean = shift_0 + sum(d) / p                               one kernel for the three sums
    variance = (sum(q) + k (sum(d^2) - sum(d)^2 / p)) / (p k)

with p pieces of k positions. It does not cancel for |mean| >> std, as E[x^2] - E[x]^2 does: every distance is from a
value of the data. That one may be far, D, from all others. But then it has its part in the variance, D^2 / k of its
piece, and rounding has D^2 eps: relative to the variance k eps, 1e-5 for most arrays, at the very worst.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array

#: Positions of a piece and pieces, at most: of more than 4096 (32 threads of 128 each) XLA makes a third kernel.
LONGEST = 4096
#: Pieces times groups of 32 channels, if the array has them: four blocks of threads a processor of an H100.
BLOCKS = 528
#: Positions of a piece, at least, if there are: what a piece leaves behind is then a tenth of it or less.
SHORTEST = 64


def positions_of_a_piece(parts: int, examples: int, rows: int, channels: int, *, whole_examples: bool) -> int:
    """Return into how many positions each part is cut; ``rows`` where nothing fits.

    Args:
        parts: arrays with sums of their own.
        examples: of a part.
        rows: positions of a part, those of all its examples.
        channels: of the array.
        whole_examples: no piece may have positions of two examples: a compiler splits them over devices.

    >>> positions_of_a_piece(1, 128, 128 * 32 * 32, 16, whole_examples=False)
    128
    >>> positions_of_a_piece(1, 256, 256 * 56 * 56, 256, whole_examples=False)
    3136
    >>> positions_of_a_piece(1, 256, 256 * 7 * 7, 2048, whole_examples=True)
    49
    """
    most = rows // examples if whole_examples else rows
    able = [
        size
        for size in range(1, min(LONGEST, most) + 1)
        if most % size == 0 and rows // size <= LONGEST and (size >= SHORTEST or size == most)
    ]
    full = [size for size in able if parts * (rows // size) * math.ceil(channels / 32) >= BLOCKS]
    return max(full, default=min(able, default=rows))


def moments(x: Array, *, devices: int) -> tuple[Array, Array]:
    """Return mean and variance of ``x`` (parts, ..., channels) over all positions; see the module."""
    pieces = _cut(x, devices)
    p, k = pieces.shape[1:3]
    shift = pieces[:, :, 0]
    distance = pieces - shift[:, :, None]
    s1, s2 = jnp.sum(distance, 2), jnp.sum(jnp.square(distance), 2)
    q = s2 - jnp.square(s1) * (1 / k)
    if p == 1:
        return (shift + s1 * (1 / k))[:, 0], jnp.maximum(q[:, 0] * (1 / k), 0)
    first = shift[:, :1]
    d = (shift - first) + s1 * (1 / k)
    kd = k * (shift - first) + s1  # a value with two uses XLA would make in a kernel of its own
    total, squares, within = jnp.sum(jnp.stack([d, jnp.square(kd) * (1 / k), q]), 2)
    between = squares - jnp.square(total) * (k / p)
    return first[:, 0] + total * (1 / p), jnp.maximum((within + between) * (1 / (p * k)), 0)


def pair_of_sums(a: Array, b: Array, *, devices: int) -> tuple[Array, Array]:
    """Return the sums over all positions of two arrays of one shape (parts, ..., channels), in two kernels."""
    sums = jnp.stack([jnp.sum(_cut(each, devices), 2) for each in (a, b)])
    total = jnp.sum(sums, 2)
    return total[0], total[1]


def _cut(x: Array, devices: int) -> Array:
    """Return ``x`` as (parts, pieces, positions, channels)."""
    parts, *positions, channels = x.shape
    rows = math.prod(positions)
    size = positions_of_a_piece(parts, positions[0], rows, channels, whole_examples=devices > 1)
    return x.reshape(parts, rows // size, size, channels)
