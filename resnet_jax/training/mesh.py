"""Devices and shardings: one mesh axis, ``data``, for 1 or 1,000 devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resnet_jax.errors import UsageError
from resnet_jax.tasks.classification import require_classes

DATA_AXIS = "data"


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Return a one-dimensional mesh over ``devices`` (JAX devices; default: all of them, of all processes).

    Its axis is of type Auto: the compiler places the collectives. (The default of ``jax.make_mesh`` is Explicit,
    under which Linen's dropout raises.)
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of the state: every device has all of it."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Sharding of a batch: its axis of examples, the leading one if nothing is said, is cut over the devices."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, DATA_AXIS))


def check_batch_size(batch_size: int, mesh: Mesh, *, accumulate: int = 1) -> None:
    """Refuse a global batch that the devices (times the accumulation steps) cannot share equally.

    Raises:
        UsageError: with the two nearest batch sizes that would do.
    """
    parts = mesh.size * accumulate
    if batch_size < 1 or batch_size % parts:
        below = max(batch_size // parts, 1) * parts
        micro = f" x {accumulate} accumulation steps" if accumulate > 1 else ""
        raise UsageError(
            f"a batch of {batch_size} cannot be shared equally by {mesh.size} devices{micro}; "
            f"use a multiple of {parts}, such as {below} or {below + parts}"
        )


def shard_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, axis: int = 0, *, num_classes: int | None = None
) -> dict[str, jax.Array]:
    """Put one process's part of a batch on its devices; together the processes hold the global batch.

    Args:
        batch: host arrays.
        mesh: the devices.
        axis: the axis of examples.
        num_classes: if given, ``label`` is checked, here where it still is on the host: see :func:`require_classes`.

    Raises:
        UsageError: a label is none of ``num_classes`` classes.
    """
    if num_classes is not None:
        require_classes(batch, num_classes)
    sharding = batch_sharding(mesh, axis)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
