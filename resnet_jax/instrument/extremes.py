"""Find non-finite values at every block, forward and backward, for a batch on which training failed."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from resnet_jax.instrument.hooks import Hook
from resnet_jax.models.collections import PROBES, SIGNALS
from resnet_jax.ops.probe import extremes, tap_extremes

#: Points whose values are checked, in the order of computation.
FORWARD = ("input", "branch", "skip", "output")
#: Points whose gradients are checked, in the order of computation.
BACKWARD = ("output", "input")


def extreme_values() -> Hook:
    """Return a hook that writes :func:`~resnet_jax.ops.probe.extremes` of the values at the points :data:`FORWARD`.

    If the variables have probes, the gradients with respect to them are the same for the gradients at :data:`BACKWARD`.
    """

    def at(block: nn.Module, point: str, x: Array) -> Array:
        if point in BACKWARD:
            if block.has_variable(PROBES, point):
                x = tap_extremes(x, block.get_variable(PROBES, point))
            elif block.is_mutable_collection(PROBES) and not block.is_initializing():
                block.put_variable(PROBES, point, jnp.zeros(2, jnp.float32))
        if point in FORWARD and block.is_mutable_collection(SIGNALS):
            block.put_variable(SIGNALS, point, extremes(x))
        return x

    return at
