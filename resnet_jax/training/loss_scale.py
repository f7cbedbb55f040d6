"""Dynamic loss scaling for training in float16 (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2).

Activation gradients are often below 6e-8, the smallest float16 number, and would be lost. The loss is therefore
multiplied by a scale before the gradient is taken, and the gradient, then in float32, is divided by it. A scale that is
too large overflows: such a step is **skipped**, which changes only the scale, which is halved, and the position in the
data. After a number of steps without overflow the scale is doubled, to find the largest one that works.

Skipped steps are normal: often the first few, and later about one in ``growth_every``. A skipped step is an error only
when no smaller scale is left to try, because then the overflow does not come from the scale.

bfloat16 has the range of float32 and needs no scale.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from resnet_jax.training.options import LossScaling


class LossScale(flax.struct.PyTreeNode):
    """The loss scale of a run, part of its state.

    Attributes:
        scale: float32 scalar the loss is multiplied by.
        good_steps: int32 scalar, number of steps without overflow since it last changed.
    """

    scale: jax.Array
    good_steps: jax.Array


def init_loss_scale(scaling: LossScaling) -> LossScale:
    """Return the loss scale of the first step."""
    return LossScale(jnp.asarray(scaling.initial, jnp.float32), jnp.zeros((), jnp.int32))


def next_loss_scale(old: LossScale, finite: jax.Array, scaling: LossScaling) -> LossScale:
    """Return the loss scale after a step: halved after an overflow, doubled after enough steps without one.

    Args:
        old: the scale before the step.
        finite: bool scalar, whether everything in the step was finite.
        scaling: how the scale changes.

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
