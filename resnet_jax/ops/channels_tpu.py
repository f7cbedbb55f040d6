"""The moments of :mod:`~resnet_jax.ops.channels` on a TPU: computed where the convolution writes its output.

XLA fuses sums over a convolution's output into the kernel that computes it, if they depend on nothing that comes later.
A mean qualifies; the mean squared distance from it does not, and reads the array again. Distances are therefore taken
from a previously known number of each channel, the *shift*, and both sums take one pass:

    s1 = sum(x - shift),  s2 = sum((x - shift)^2)
    mean = shift + s1 / n,  variance = s2 / n - (s1 / n)^2

Batch norm passes its running mean. Relative to the variance, the difference loses the rounding of the sums, some eps of
float32, times 1 + D^2, where shift and mean are D standard deviations apart. Once the running mean is close to the
mean, that is negligible. At the start, when it is 0, D is |mean| / std, so only values with bfloat16's 8 bits are
treated this way. Their own rounding, at most 2^-9 |mean|, has already added up to 2^-18 / 3 D^2 = 1.3e-6 D^2 to the
variance in the same units, and what is lost here is less than that at any D.
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
    # rounding may give a negative variance; NaN stays NaN
    return shift + ahead, jnp.maximum(square - jnp.square(ahead), 0)
