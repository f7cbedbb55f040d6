"""Whole residual branches: which blocks can be removed, how important each is, and the network without some of them.

A block whose skip is the identity can be removed, which leaves the skip (lesions: Veit et al. 2016, arXiv 1605.06431).
In post-activation order with ReLU, its input is not negative, so the network without the block is exactly the full
network with that branch set to zero (:func:`silence_blocks`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import UsageError
from resnet_jax.models.branches import branch_convs
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.layout import stack, unstack
from resnet_jax.models.paths import BLOCK, block_name, stage_name
from resnet_jax.models.plan import BlockSpec, plan_stages, projects
from resnet_jax.models.resnet import ResNet

Variables = Mapping[str, Any]


def removable_blocks(config: ResNetConfig) -> tuple[BlockSpec, ...]:
    """Return the blocks whose skip is the identity, in depth order.

    Raises:
        UsageError: the network has no such blocks, or its other blocks change when one is removed (the NF rules).

    >>> from resnet_jax.models import create_model
    >>> [(block.stage, block.index) for block in removable_blocks(create_model("resnet20_cifar").config)]
    [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
    """
    if config.is_nf:
        raise UsageError(f"residual {config.residual}: the factors of all later blocks depend on how many there are")
    if config.shortcut in ("none", "B_norm") or (not config.is_pre and config.activation != "relu"):
        raise UsageError(
            "a block can be removed only if its skip leaves its input unchanged: order pre, or ReLU and an identity"
        )
    found = tuple(
        block
        for stage in plan_stages(config)
        for block in stage
        if not projects(config, block) and not block.changes_shape and len(stage) > 1
    )
    if not found:
        raise UsageError(f"no block of this network has an identity as its skip (shortcut {config.shortcut})")
    return found


def drop_blocks(model: ResNet, variables: Variables, depths: Collection[int]) -> tuple[ResNet, dict[str, Any]]:
    """Return the network without the blocks at the given depth indices, and its variables.

    Args:
        model: the network.
        variables: its parameters and statistics, in any layout.
        depths: removable blocks; at least one block of each stage must stay.

    Raises:
        UsageError: these blocks cannot all be removed.
    """
    _check(model.config, depths)
    config = model.config
    sizes, widths = [], []
    renamed: dict[tuple[str, str], tuple[str, str] | None] = {}
    for number, stage in enumerate(plan_stages(config)):
        left = [block for block in stage if block.depth not in depths]
        sizes.append(len(left))
        name = stage_name(number)
        renamed |= {(name, block_name(block.index)): None for block in stage}
        renamed |= {(name, block_name(old.index)): (name, block_name(new)) for new, old in enumerate(left)}
        widths += [channels for block in left for channels in block.inner]
    execution = "auto" if config.execution == "scan" else config.execution
    config = dataclasses.replace(config, stage_sizes=tuple(sizes), branch_widths=tuple(widths), execution=execution)

    def without(tree: Mapping[str, Any]) -> dict[str, Any]:
        flat = flatten_dict(unstack(dict(tree)))
        places = {path: renamed.get(path[:2], path[:2]) for path in flat}
        kept = {(*place, *path[2:]): flat[path] for path, place in places.items() if place is not None}
        return stack(unflatten_dict(kept), execution)

    return ResNet(config), {name: without(tree) for name, tree in variables.items()}


def silence_blocks(model: ResNet, variables: Variables, depths: Collection[int]) -> dict[str, Any]:
    """Return variables of the full network in which the branches of some blocks output zero."""
    config = model.config
    blocks = {}
    for block in (block for stage in plan_stages(config) for block in stage if block.depth in depths):
        last = len(branch_convs(config, block))
        names = {f"conv{last}", f"bias{last}b"} | ({f"norm{last}"} if not config.is_pre else set())
        blocks[BLOCK.format(stage=block.stage + 1, block=block.index)] = names
    params: Any = flatten_dict(unstack(dict(variables["params"])))
    for path, leaf in params.items():
        names = blocks.get("/".join(path[:2]), set())
        if names and path[2] == "branch" and path[3] in names:
            params[path] = np.zeros_like(leaf)
    return {**variables, "params": stack(unflatten_dict(params), config.execution)}


def least_needed(
    model: ResNet, variables: Variables, count: int, loss: Callable[[Variables], float]
) -> tuple[tuple[int, ...], list[float]]:
    """Choose blocks to remove greedily: each time the one whose removal gives the smallest loss.

    Args:
        model: the network.
        variables: its variables.
        count: number of blocks.
        loss: loss of variables of this network.

    Returns:
        Their depth indices in the order of removal, and the loss after each.

    Raises:
        UsageError: there are not that many removable blocks.
    """
    candidates = {block.depth: block.stage for block in removable_blocks(model.config)}
    left = dict(enumerate(model.config.stage_sizes))
    gone: list[int] = []
    losses: list[float] = []
    for _ in range(count):
        open_ = [depth for depth, stage in candidates.items() if depth not in gone and left[stage] > 1]
        if not open_:
            raise UsageError(f"{count} blocks cannot be removed, only {len(gone)}: each stage keeps one")
        found = {depth: loss(silence_blocks(model, variables, [*gone, depth])) for depth in open_}
        best = min(found, key=lambda depth: found[depth])
        gone.append(best)
        losses.append(found[best])
        left[candidates[best]] -= 1
    return tuple(gone), losses


def _check(config: ResNetConfig, depths: Collection[int]) -> None:
    allowed = {block.depth for block in removable_blocks(config)}
    if strange := sorted(set(depths) - allowed):
        raise UsageError(f"block {strange[0]} cannot be removed; removable blocks, by depth from 0: {sorted(allowed)}")
    for stage, blocks in enumerate(plan_stages(config)):
        if all(block.depth in depths for block in blocks):
            raise UsageError(f"all blocks of stage {stage + 1} would be removed; one must stay")
