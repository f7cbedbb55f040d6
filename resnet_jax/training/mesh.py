"""The former names for what a placement provides (:mod:`resnet_jax.training.placement`)."""

from __future__ import annotations

from typing import Any

from jax.sharding import NamedSharding

from resnet_jax.training.placement import (
    DATA_AXIS as DATA_AXIS,
    Devices,
    as_placement,
    check_batch_size as check_batch_size,
    make_mesh as make_mesh,
    shard_batch as shard_batch,
)


def replicated(mesh: Devices) -> Any:
    """Return the sharding of a state; see :meth:`Placement.state`."""
    return as_placement(mesh).state()


def batch_sharding(mesh: Devices, axis: int = 0) -> NamedSharding:
    """Return the sharding of a batch; see :meth:`Placement.batch`."""
    return as_placement(mesh).batch(axis)
