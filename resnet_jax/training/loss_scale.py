"""Dynamic loss scale, for training in float16 (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2).

Activation gradients are often below 6e-8, float16's smallest number, and would be lost. The loss is multiplied by a
scale before the gradient is taken, and the gradient, then float32, divided by it. A scale that is too large overflows:
then that step is **skipped**, which changes nothing but the scale, halved, and the position in the data. After so many
steps without overflow the scale is doubled, to find the largest that works.

A skipped step is ordinary: the first few often are, and later about one in ``growth_every``. It is an error only when
there is no smaller scale left to try, for then it is not the scale that makes numbers overflow.

bfloat16 has float32's range and needs no scale.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from resnet_jax.training.options import LossScaling


class LossScale(flax.struct.PyTreeNode):
    """The scale of a run, part of its state.

    Attributes:
        scale: float32 scalar the loss is multiplied by.
        good_steps: int32 scalar, steps without overflow since it last changed.
    """

    scale: jax.Array
    good_steps: jax.Array


def init_loss_scale(scaling: LossScaling) -> LossScale:
    """Return the scale of the first step."""
    return LossScale(jnp.asarray(scaling.initial, jnp.float32), jnp.zeros((), jnp.int32))


def next_loss_scale(old: LossScale, finite: jax.Array, scaling: LossScaling) -> LossScale:
    """Return the scale after a step: halved if it overflowed, doubled after so many that did not.

    Args:
        old: before the step.
        finite: bool scalar, whether all of the step was finite.
        scaling: how it moves.

    >>> scaling = LossScaling(initial=8.0, growth_every=2)
    >>> state, scales = init_loss_scale(scaling), []
    >>> for finite in (False, True, True, True):
    ...     state = next_loss_scale(state, jnp.asarray(finite), scaling)
    ...     scales.append(float(state.scale))
    >>> scales
    [4.0, 4.0, 8.0, 8.0]
    """
    good = jnp.where(finite, old.good_steps + 1, 0)
    grows = good >= scaling.growth_every
    scale = jnp.where(finite, jnp.where(grows, old.scale * 2, old.scale), old.scale / 2)
    return LossScale(jnp.clip(scale, scaling.minimum, scaling.maximum), jnp.where(grows, 0, good))
