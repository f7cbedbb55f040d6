"""Adaptive gradient clipping: bound each unit's gradient by a fraction of the norm of its weights.

For unit i of a parameter, with weights W_i and gradient G_i (Brock et al. 2021, arXiv 2102.06171, equation 3):

    G_i <- G_i min(1, clipping max(||W_i||, eps) / ||G_i||)

A unit is one output of a kernel with all of its inputs: the norms of a convolution of any spatial rank and of a linear
layer run over all axes but the last. Every other parameter (bias, gain, scale, scalar) is one unit. The role decides
which case applies, not the rank: `optax.adaptive_grad_clip` goes by rank and misreads the kernel of a one-dimensional
convolution. The paper excludes the classifier; here its roles are excluded, wherever it is and whatever comes after it.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from resnet_jax.errors import UsageError
from resnet_jax.models.layout import over_blocks
from resnet_jax.ops import at_least_float32
from resnet_jax.training.roles import CLASSIFIER_ROLES, KERNEL_ROLES, ROLE_RULES, Rules, mask, stacked

PyTree = Any
EPS = 1e-3
"""Lower bound for the norm of a unit's weights, so that zero-initialized ones can move (the paper's value)."""


def unit_norms(x: jax.Array, role: str) -> jax.Array:
    """Return the norm of each unit of a parameter (or of its gradient), in float32 or wider.

    Args:
        x: the parameter.
        role: its role; kernels have one unit per index of the last axis, everything else is one unit.

    Returns:
        An array with as many axes as ``x``, of length 1 where the norm runs over them.

    >>> unit_norms(jnp.full((3, 3, 4, 8), 2.0), "conv").shape, unit_norms(jnp.full((9,), 2.0), "gain").tolist()
    ((1, 1, 1, 8), [6.0])
    """
    per_output = role in KERNEL_ROLES and x.ndim > 1
    axes = tuple(range(x.ndim - 1 if per_output else x.ndim))
    wide = x.astype(at_least_float32(x.dtype))
    return jnp.sqrt(jnp.sum(jnp.square(wide), axis=axes, keepdims=True))


def clip_adaptively(
    clipping: float, roles: PyTree, *, exclude: Collection[str] = CLASSIFIER_ROLES, eps: float = EPS
) -> optax.GradientTransformation:
    """Build the gradient transformation; its ``update`` needs the parameters.

    A non-finite gradient stays non-finite: rejecting the step is up to the train step.

    Args:
        clipping: largest ratio of gradient norm to weight norm (the paper: 0.01 for batches of 4096, larger for smaller
            ones).
        roles: tree of the parameters' roles (`resnet_jax.training.roles.roles`).
        exclude: roles that are not clipped.
        eps: lower bound for the weight norm.

    >>> tx = clip_adaptively(0.01, {"conv": {"kernel": "conv"}, "head": {"kernel": "head"}})
    >>> ones = {"conv": {"kernel": jnp.ones((3, 3, 1, 2))}, "head": {"kernel": jnp.ones((2, 2))}}
    >>> clipped, _ = tx.update(ones, tx.init(ones), ones)
    >>> [round(float(clipped[name]["kernel"].max()), 4) for name in ("conv", "head")]
    [0.01, 1.0]
    """

    def clip(g: jax.Array, w: jax.Array, role: str, stacked: bool) -> jax.Array:
        return g if role in exclude else over_blocks(partial(clip_units, role=role), stacked)(g, w)

    def clip_units(g: jax.Array, w: jax.Array, role: str) -> jax.Array:
        norm = unit_norms(g, role)
        limit = (clipping * jnp.maximum(unit_norms(w, role), eps)).astype(norm.dtype)
        exceeds = norm > limit  # also keeps the division away from 0
        ratio = jnp.where(exceeds, limit / jnp.where(exceeds, norm, 1.0), 1.0)
        return (g.astype(ratio.dtype) * ratio).astype(g.dtype)

    return optax.stateless(lambda g, w: jax.tree.map(clip, g, w, roles, stacked(g)))


def require_excluded(params: PyTree, exclude: Collection[str], rules: Rules = ROLE_RULES) -> None:
    """Raise an error if nothing is excluded, because then a classifier with an unknown name would be clipped.

    Raises:
        UsageError: if ``exclude`` contains an unknown role, or no parameter has one of its roles.
    """
    if exclude and not any(jax.tree.leaves(mask(params, exclude, rules))):
        raise UsageError(
            f"adaptive clipping leaves out the roles {', '.join(exclude)}, and no parameter has one: say what the "
            "classifier is called with rules=role_rules(head=...), or exclude nothing"
        )
