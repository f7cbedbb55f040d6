"""The sums of :mod:`~resnet_jax.ops.channels` on a GPU: one pass over the array, and few kernels.

There a sum over positions is two kernels: blocks of threads sum pieces of the array, and a second, small kernel sums
their results. XLA chooses the pieces itself, and would read the array once for the mean and again for the variance.
Here the pieces are explicit, and all distances are relative to one value of each channel, the *shift*, so that one pass
is enough:

    s1 = sum(x - shift),  s2 = sum((x - shift)^2)
    mean = shift + s1 / n,  variance = s2 / n - (s1 / n)^2

The shift is the value in the middle of the array, far from the padding of a convolution. Unlike E[x^2] - E[x]^2, this
does not cancel for |mean| >> std: rounding in float32 is about eps (1 + D^2) of the variance, where that value and the
mean are D standard deviations apart. For D = 4 that is at most 1e-5. However far one value is from all others, it is
about n eps, because that value contributes to the variance itself.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array

#: Maximum positions per piece, and maximum pieces: beyond 4096 (32 threads of 128 each) XLA makes a third kernel.
LONGEST = 4096
#: Pieces times groups of 32 channels, if the array has them: four blocks of threads per processor of an H100.
BLOCKS = 528
#: Minimum positions per piece, if available: the result of a piece is then at most a tenth of it.
SHORTEST = 64
#: The same for masked sums. With half of it, XLA computes the masks of ResNet-50 in the forward pass, writes them, a
#: byte per element, and reads them here, although everything they are made of is read anyway. With this value it
#: computes 31 of 33 here.
MASKED_BLOCKS = 3072


def positions_of_a_piece(parts: int, rows: int, channels: int, blocks: int = BLOCKS) -> int:
    """Return the number of positions per piece into which each part is cut, or ``rows`` if nothing fits.

    Args:
        parts: arrays with sums of their own.
        rows: positions of a part.
        channels: channels of the array.
        blocks: pieces times groups of 32 channels, if the array has them.

    >>> positions_of_a_piece(1, 128 * 32 * 32, 16), positions_of_a_piece(1, 256 * 56 * 56, 256)
    (128, 4096)
    >>> [positions_of_a_piece(1, 256 * side**2, 64, MASKED_BLOCKS) for side in (112, 56, 28)]
    [2048, 512, 128]
    """
    able = [
        size
        for size in range(1, min(LONGEST, rows) + 1)
        if rows % size == 0 and rows // size <= LONGEST and (size >= SHORTEST or size == rows)
    ]
    full = [size for size in able if parts * (rows // size) * math.ceil(channels / 32) >= blocks]
    return max(full, default=min(able, default=rows))


def moments(x: Array) -> tuple[Array, Array]:
    """Return mean and variance of ``x`` (parts, ..., channels) over all positions; see the module."""
    shift = x[(slice(None), *(size // 2 for size in x.shape[1:-1]))]
    count = math.prod(x.shape[1:-1])
    distance = cut(x) - shift[:, None, None]
    s1, s2 = pair_of_sums(distance, jnp.square(distance))
    ahead = s1 * (1 / count)
    # rounding may give a negative variance; NaN stays NaN
    return shift + ahead, jnp.maximum(s2 * (1 / count) - jnp.square(ahead), 0)


def pair_of_sums(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the sums over all positions of two results of :func:`cut`, (parts, channels), in two kernels."""
    sums = jnp.sum(jnp.stack([jnp.sum(each, 2) for each in (a, b)]), 2)
    return sums[0], sums[1]


def cut(x: Array, blocks: int = BLOCKS) -> Array:
    """Return ``x`` (parts, ..., channels) as (parts, pieces, positions, channels); see :func:`positions_of_a_piece`.

    If arrays are cut before computing with them, they have the shape of the sums, and XLA fuses them more readily.
    """
    parts, *positions, channels = x.shape
    rows = math.prod(positions)
    size = positions_of_a_piece(parts, rows, channels, blocks)
    return x.reshape(parts, rows // size, size, channels)
