"""How the moments of :mod:`~resnet_jax.ops.channels` are taken on a TPU: where the convolution writes its output.

XLA puts sums over a convolution's output into the kernel that computes it, if they depend on nothing that comes later.
A mean does not, the mean squared distance from it does, and reads the array again. So distances are taken from a
number of each channel that is known before, the *shift*, and both sums are of one pass:

    s1 = sum(x - shift),  s2 = sum((x - shift)^2)
    mean = shift + s1 / n,  variance = s2 / n - (s1 / n)^2

Batch norm gives its running mean. Relative to the variance, the difference loses what the sums round, some eps of
float32, times 1 + D^2, with D standard deviations between shift and mean. Once the running mean has come near the mean
that is nothing. At the start, when it is 0, D is |mean| / std; so only values of bfloat16's 8 bits are treated so.
Their own rounding, 2^-9 |mean| or less, has already added up to 2^-18 / 3 D^2 = 1.3e-6 D^2 to the variance in the same
units, and what is lost here is less than that, at any D.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array


def moments(x: Array, shift: Array) -> tuple[Array, Array]:
    """Return mean and variance over all positions of ``x`` (parts, ..., channels); ``shift`` is (parts, channels)."""
    axes, count = tuple(range(1, x.ndim - 1)), math.prod(x.shape[1:-1])
    distance = x - shift.reshape(x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
    ahead = jnp.sum(distance, axes) * (1 / count)
    square = jnp.sum(jnp.square(distance), axes) * (1 / count)
    # rounding may leave less than nothing; what is not a number stays so
    return shift + ahead, jnp.maximum(square - jnp.square(ahead), 0)
