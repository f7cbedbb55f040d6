"""The learning rate of each parameter, as a factor of the schedule's: by role and by depth.

* By role: Fixup trains its scalar biases and scales at a tenth of the rate (Zhang et al. 2019, arXiv 1901.09321,
  section 4: ``role_rates = [("scalar", 0.1)]``). A run of a network with Fixup gets this automatically, with a message
  (:mod:`resnet_jax.runs.companions`); `make_optimizer` does nothing unless asked to.
* By depth: rate = decay ** (distance from the classifier), for fine-tuning (layer-wise learning-rate decay; Bao et al.
  2022, arXiv 2106.08254, and timm's `layer_decay`). The classifier and the final norm are at distance 0, the last block
  at 1, the block before it at 2, and the stem is furthest; two towers are counted separately.

The factor multiplies the whole update, including decoupled weight decay, like the rate of a parameter group in PyTorch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax.errors import UsageError, unknown
from resnet_jax.models.paths import TOWERS, parse
from resnet_jax.training import roles

PyTree = Any

Distance = int | tuple[int, ...]
_TRANSITION = re.compile(r"(?:^|/)stage([1-9]\d*)/transition/")
_TOP = re.compile(r"(?:norm|classifier|logits)/[^/]+|head/.+|bias2")


def rate_factors(
    params: PyTree,
    *,
    role_rates: Sequence[tuple[str, float]] = (),
    layer_decay: float | None = None,
    rules: roles.Rules = roles.ROLE_RULES,
) -> PyTree:
    """Return the tree of ``params`` with each one's learning-rate factor: a float, or an array for stacked blocks.

    Args:
        params: parameters or their shapes; only the paths are read.
        role_rates: pairs (role, factor); other roles have factor 1. Roles that no parameter has are allowed.
        layer_decay: factor per block of distance from the classifier, in (0, 1]; None for none.
        rules: how paths map to roles.

    Raises:
        UsageError: for an unknown or repeated role, a factor out of range, or a parameter of unknown depth.

    >>> params = {"stem": {"bias1": 0}, "stage1": {"block0": {"branch": {"scale": 0}}}, "head": {"kernel": 0}}
    >>> rate_factors(params, role_rates=[("scalar", 0.1)], layer_decay=0.5)
    {'head': {'kernel': 1.0}, 'stage1': {'block0': {'branch': {'scale': 0.05}}}, 'stem': {'bias1': 0.025}}
    """
    by_role = _by_role(role_rates, rules)
    factors = jax.tree.map(lambda role: by_role.get(role, 1.0), roles.roles(params, rules))
    if layer_decay is None:
        return factors
    if not 0.0 < layer_decay <= 1.0:
        raise UsageError(f"layer_decay must be in (0, 1], got {layer_decay}")

    def factor(by_role: float, distance: Distance, leaf: Any) -> float | np.ndarray:
        if isinstance(distance, int):
            return by_role * layer_decay**distance
        return by_role * layer_decay ** np.reshape(distance, (-1,) + (1,) * (leaf.ndim - 1)).astype(np.float64)

    return jax.tree.map(factor, factors, distances(params), params)


def scale_rates(factors: PyTree) -> optax.GradientTransformation:
    """Return the transformation that multiplies each update by its factor; it must come last."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda u, factor: jnp.asarray(factor, u.dtype) * u, updates, factors)
    )


def distances(params: PyTree) -> PyTree:
    """Return the tree of ``params`` with each one's distance from the classifier, in blocks; tuples for stacked blocks.

    Blocks are found by their names, ``stageS/blockB``, and ordered by the two numbers, so block 10 comes after block 9.
    Whatever precedes the first block, ``stageS/transition``, counts as a block.

    Raises:
        UsageError: for parameters that belong neither to the stem nor to a block nor to the classifier; it lists all of
            them.

    >>> distances({"stem": {"bias1": 0}, "stage1": {"block9": {"gain": 0}, "block10": {"gain": 0}}, "bias2": 0})
    {'bias2': 0, 'stage1': {'block10': {'gain': 1}, 'block9': {'gain': 2}}, 'stem': {'bias1': 3}}
    """
    if isinstance(params, dict) and set(TOWERS) <= set(params):  # each from its own top; the temperature is there
        return {
            name: distances(tree) if name in TOWERS else jax.tree.map(lambda _: 0, tree)
            for name, tree in params.items()
        }
    listed = jax.tree_util.tree_map_with_path(roles.listed, params)
    blocks = {path: _block(path) for path in jax.tree.leaves(listed)}
    strange = [
        path for path, block in blocks.items() if block is None and not (parse(path).in_stem or _TOP.fullmatch(path))
    ]
    if strange:
        raise UsageError(
            "layer_decay needs to know how deep each parameter is; these are neither in the stem, nor in a "
            "stageS/blockB, nor beside the head:\n  " + "\n  ".join(strange)
        )
    order = sorted({block for block in blocks.values() if block is not None}, reverse=True)
    distance = {block: index + 1 for index, block in enumerate(order)}

    def measure(path: str) -> int:
        block = blocks[path]
        if block is not None:
            return distance[block]
        return 0 if _TOP.fullmatch(path) else len(order) + 1

    return jax.tree.map(
        lambda paths: measure(paths) if isinstance(paths, str) else tuple(measure(path) for path in paths),
        listed,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def _block(path: str) -> tuple[int, int] | None:
    if match := _TRANSITION.search(path):
        return int(match[1]) - 1, -1
    place = parse(path)
    return None if place.stage is None or place.block is None else (place.stage, place.block)


def _by_role(role_rates: Sequence[tuple[str, float]], rules: roles.Rules) -> dict[str, float]:
    known = roles.role_names(rules)
    for role, factor in role_rates:
        if role not in known:
            raise unknown("parameter role", role, known)
        if not (math.isfinite(factor) and factor > 0.0):
            raise UsageError(f"role_rates: the factor of {role} must be finite and positive, got {factor}; see freeze")
    by_role = dict(role_rates)
    if len(by_role) < len(role_rates):
        raise UsageError(f"role_rates names a role twice: {', '.join(role for role, _ in role_rates)}")
    return by_role
