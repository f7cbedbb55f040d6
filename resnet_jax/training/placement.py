"""Placement: the devices of a training, and how its state, its batches and its outputs are sharded over them.

There is one mesh axis, ``data``, for 1 or 1,000 devices. A :class:`Placement` is a value: whoever compiles a step or
puts arrays on devices asks it, so that another one, which shards the state too, needs no other call sites.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resnet_jax.errors import UsageError
from resnet_jax.tasks.classification import require_classes

DATA_AXIS = "data"


@dataclasses.dataclass(frozen=True)
class Placement:
    """Data-parallel placement: the state replicated, batches cut over the devices, outputs replicated.

    Attributes:
        mesh: the devices, along the axis ``data``.

    >>> placement = Placement(make_mesh(jax.devices()[:1]))
    >>> placement.size, placement.is_main, placement.batch(axis=1).spec
    (1, True, P(None, 'data'))
    """

    mesh: Mesh

    @classmethod
    def of(cls, devices: Sequence[Any] | None = None) -> Placement:
        """Return the placement on ``devices`` (JAX devices; default: all of them, of all processes)."""
        return cls(make_mesh(devices))

    def state(self, tree: Any = None) -> Any:
        """Return where a state lies: a sharding, or a tree of them, as ``jax.jit`` and ``jax.device_put`` take it.

        Args:
            tree: the state, its shapes, or a part of either. Here every array lies whole on every device, whatever the
                tree; a placement that shards the state decides by it, and returns None (as the arguments lie) without.
        """
        return NamedSharding(self.mesh, PartitionSpec())

    def batch(self, axis: int = 0) -> NamedSharding:
        """Return where a batch lies: its axis of examples, the leading one if nothing is said, is cut over devices."""
        return NamedSharding(self.mesh, PartitionSpec(*(None,) * axis, DATA_AXIS))

    def abstract(self, tree: Any) -> Any:
        """Return the shapes of a state, or of a part of one, placed: what :meth:`Checkpoints.restore` takes.

        Args:
            tree: arrays, or anything with ``shape`` and ``dtype``.
        """
        where = jax.tree.broadcast(self.state(tree), tree)
        return jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), tree, where)

    @property
    def outputs(self) -> NamedSharding:
        """Where metrics and outputs lie: every process can read all of them."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def devices(self) -> list[Any]:
        """The devices, in order."""
        return list(self.mesh.devices.flat)

    @property
    def local_devices(self) -> list[Any]:
        """Those of this process, which alone it can ask for their memory."""
        return [device for device in self.devices if getattr(device, "process_index", 0) == self.process_index]

    @property
    def size(self) -> int:
        """Number of devices."""
        return self.mesh.size

    @property
    def platform(self) -> str:
        """What the devices are: ``cpu``, ``gpu`` or ``tpu``."""
        return self.mesh.devices.flat[0].platform

    @property
    def process_index(self) -> int:
        """Which process this is, from 0."""
        return jax.process_index()

    @property
    def process_count(self) -> int:
        """Number of processes."""
        return jax.process_count()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.process_index == 0

    def shard(self, batch: Mapping[str, np.ndarray], axis: int = 0) -> dict[str, jax.Array]:
        """Put this process's part of a batch on its devices; together the processes hold the global batch.

        Args:
            batch: host arrays.
            axis: the axis of examples.
        """
        where = self.batch(axis)
        return {name: jax.make_array_from_process_local_data(where, value) for name, value in batch.items()}


#: What functions that need devices take: a placement, or the mesh of the data-parallel one.
Devices: TypeAlias = Placement | Mesh


def as_placement(devices: Devices) -> Placement:
    """Return the placement itself, or the data-parallel one of a mesh."""
    return devices if isinstance(devices, Placement) else Placement(devices)


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Return a one-dimensional mesh over ``devices`` (JAX devices; default: all of them, of all processes).

    Its axis is of type Auto: the compiler places the collectives. (The default of ``jax.make_mesh`` is Explicit,
    under which Linen's dropout raises.)
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def check_batch_size(batch_size: int, mesh: Devices, *, accumulate: int = 1) -> None:
    """Refuse a global batch that the devices (times the accumulation steps) cannot share equally.

    Raises:
        UsageError: with the two nearest batch sizes that would do.
    """
    devices = as_placement(mesh).size
    parts = devices * accumulate
    if batch_size < 1 or batch_size % parts:
        below = max(batch_size // parts, 1) * parts
        micro = f" x {accumulate} accumulation steps" if accumulate > 1 else ""
        raise UsageError(
            f"a batch of {batch_size} cannot be shared equally by {devices} devices{micro}; "
            f"use a multiple of {parts}, such as {below} or {below + parts}"
        )


def shard_batch(
    batch: Mapping[str, np.ndarray], mesh: Devices, axis: int = 0, *, num_classes: int | None = None
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
    return as_placement(mesh).shard(batch, axis)
