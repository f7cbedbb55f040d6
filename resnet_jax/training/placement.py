"""Placement: the devices of a training, and how its state, batches and outputs are sharded over them.

Examples are sharded over all devices. The state is replicated on every device, or sharded too ("fully sharded data
parallel", arXiv 1910.02054: ZeRO, stage 3): over the second axis, ``fsdp``, of a mesh (data, fsdp). Each of the
``data`` groups of ``fsdp`` consecutive devices then holds parameters, optimizer state and moving averages once. The
computation is the same: the compiler gathers parameters where they are used, and sums gradients into the shards.

A :class:`Placement` is a value: everything that compiles a step or puts arrays on devices asks it for shardings.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resnet_jax.errors import UsageError
from resnet_jax.tasks.classification import require_classes
from resnet_jax.training.options import PlacementChoice

DATA_AXIS = "data"
FSDP_AXIS = "fsdp"

#: Arrays with fewer elements are replicated: sharding them would save little, and each would be gathered separately.
SMALLEST = 2**12


def cut_axis(shape: Sequence[int], parts: int, smallest: int = SMALLEST) -> int | None:
    """Return the axis along which an array is sharded into equal parts: the largest divisible one, the last if tied.

    Args:
        shape: shape of the array.
        parts: number of devices to shard it over.
        smallest: number of elements from which on arrays are sharded.

    Returns:
        None if it is replicated, because it is small or no axis is divisible.

    >>> cut_axis((3, 3, 64, 128), 8), cut_axis((2048, 1000), 16), cut_axis((7, 7, 3, 63), 8), cut_axis((64,), 8)
    (3, 0, None, None)
    """
    able = [axis for axis, size in enumerate(shape) if size and size % parts == 0]
    if parts == 1 or not able or math.prod(shape) < smallest:
        return None
    return max(able, key=lambda axis: (shape[axis], axis))


def fsdp_size(devices: int, kind: PlacementChoice, fsdp_devices: int | None) -> int | None:
    """Return the number of devices a state is sharded over, or None if it is replicated.

    Raises:
        UsageError: for ``fsdp_devices`` without ``fsdp``, or if it does not divide the number of devices.
    """
    if kind == "replicated":
        if fsdp_devices is not None:
            raise UsageError(f"train.fsdp_devices {fsdp_devices} goes with train.placement fsdp")
        return None
    size = fsdp_devices or devices
    if size < 1 or devices % size:
        able = ", ".join(str(k) for k in range(1, devices + 1) if devices % k == 0)
        raise UsageError(
            f"train.fsdp_devices {size} must divide the {devices} devices: it may be {able}, or none for all"
        )
    return size


@dataclasses.dataclass(frozen=True)
class Placement:
    """Data-parallel placement: batches sharded over the devices, outputs replicated, the state as the mesh says.

    Attributes:
        mesh: the devices, along the axis ``data``; with a second axis, ``fsdp``, the state is sharded over that.
        smallest: number of elements from which on an array of the state is sharded (:func:`cut_axis`).

    >>> placement = Placement(make_mesh(jax.devices()[:1]))
    >>> placement.size, placement.is_main, placement.batch(axis=1).spec
    (1, True, P(None, 'data'))
    >>> sharded = Placement.of(jax.devices()[:8], kind="fsdp", fsdp_devices=4)
    >>> sharded.batch().spec, sharded.state(jax.ShapeDtypeStruct((512, 1000), "float32")).spec
    (P(('data', 'fsdp'),), P(None, 'fsdp'))
    """

    mesh: Mesh
    smallest: int = SMALLEST

    @classmethod
    def of(
        cls,
        devices: Sequence[Any] | None = None,
        *,
        kind: PlacementChoice = "replicated",
        fsdp_devices: int | None = None,
        smallest: int = SMALLEST,
    ) -> Placement:
        """Return the placement on some devices.

        Args:
            devices: JAX devices (default: all devices of all processes).
            kind: ``replicated``, or ``fsdp`` to shard the state over the devices.
            fsdp_devices: for ``fsdp``, the number of consecutive devices to shard it over; None for all.
            smallest: number of elements from which on an array is sharded.

        Raises:
            UsageError: for ``fsdp_devices`` without ``fsdp``, or if it does not divide the number of devices.
        """
        devices = jax.devices() if devices is None else devices
        return cls(make_mesh(devices, fsdp=fsdp_size(len(devices), kind, fsdp_devices)), smallest)

    @property
    def fsdp(self) -> int:
        """Number of devices the state is sharded over; 1: it is replicated."""
        return self.mesh.shape.get(FSDP_AXIS, 1)

    def state(self, tree: Any = None) -> Any:
        """Return the sharding of a state, or a tree of shardings, as ``jax.jit`` and ``jax.device_put`` accept it.

        Args:
            tree: the state, its shapes, or a part of either. If the state is not sharded, every array is replicated,
                whatever the tree. If it is sharded, the tree decides: large arrays by :func:`cut_axis`, batch
                statistics never. Without a tree the result is None: the sharding of the arguments.
        """
        if self.fsdp == 1:
            return self.outputs
        return None if tree is None else jax.tree_util.tree_map_with_path(self._where, tree)

    def _where(self, path: Sequence[Any], leaf: Any) -> NamedSharding:
        names = {getattr(key, "name", getattr(key, "key", None)) for key in path}
        axis = None if "batch_stats" in names else cut_axis(leaf.shape, self.fsdp, self.smallest)
        spec = PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, FSDP_AXIS)
        return NamedSharding(self.mesh, spec)

    def kept(self, state: Any) -> Any:
        """Return a state made in a compiled function, constrained to the sharding of a state; for use while tracing."""
        return state if self.fsdp == 1 else jax.lax.with_sharding_constraint(state, self.state(state))

    def whole(self, tree: Any) -> Any:
        """Return arrays of the state replicated on every device, readable by any process; all processes must call
        it.
        """
        if self.fsdp == 1:
            return tree
        return jax.jit(lambda tree: tree, out_shardings=self.outputs)(tree)

    def batch(self, axis: int = 0) -> NamedSharding:
        """Return the sharding of a batch: its axis of examples, by default the leading one, is sharded over devices."""
        cut = (DATA_AXIS, FSDP_AXIS) if FSDP_AXIS in self.mesh.shape else DATA_AXIS
        return NamedSharding(self.mesh, PartitionSpec(*(None,) * axis, cut))

    def abstract(self, tree: Any) -> Any:
        """Return the shapes of a state, or a part of one, with shardings: what :meth:`Checkpoints.restore` takes.

        Args:
            tree: arrays, or anything with ``shape`` and ``dtype``.
        """
        where = jax.tree.broadcast(self.state(tree), tree)
        return jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), tree, where)

    @property
    def outputs(self) -> NamedSharding:
        """The sharding of metrics and outputs: every process can read all of them."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def devices(self) -> list[Any]:
        """The devices, in order."""
        return list(self.mesh.devices.flat)

    @property
    def local_devices(self) -> list[Any]:
        """The devices of this process, the only ones whose memory it can query."""
        return [device for device in self.devices if getattr(device, "process_index", 0) == self.process_index]

    @property
    def size(self) -> int:
        """Number of devices."""
        return self.mesh.size

    @property
    def platform(self) -> str:
        """The platform of the devices: ``cpu``, ``gpu`` or ``tpu``."""
        return self.mesh.devices.flat[0].platform

    @property
    def process_index(self) -> int:
        """Index of this process, from 0."""
        return jax.process_index()

    @property
    def process_count(self) -> int:
        """Number of processes."""
        return jax.process_count()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.process_index == 0

    @property
    def described(self) -> str:
        """A description of the devices: ``8 x TPU v5e, the state sharded over 4``."""
        text = f"{self.size} x {self.devices[0].device_kind}"
        return text if self.fsdp == 1 else f"{text}, the state sharded over {self.fsdp}"

    def shard(self, batch: Mapping[str, np.ndarray], axis: int = 0) -> dict[str, jax.Array]:
        """Put this process's part of a batch on its devices; together the processes hold the global batch.

        Args:
            batch: host arrays.
            axis: the axis of examples.
        """
        where = self.batch(axis)
        return {name: jax.make_array_from_process_local_data(where, value) for name, value in batch.items()}


#: The placement of the current trace, if it has several devices, and whether it may be mapped over them. JAX keeps this
#: per thread, and in the key of every cache of traced functions.
_traced_for = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def traced_for(placement: Placement, *, mapped: bool = True) -> Iterator[None]:
    """Tell a step, while it is traced, for which devices it will be compiled.

    Args:
        placement: the devices.
        mapped: whether it may be mapped over them; not for a population, whose members are already mapped.
    """
    with _traced_for((placement, mapped) if placement.size > 1 else None):
        yield


def is_cut() -> bool:
    """Return whether the state of the step being traced is sharded over devices."""
    traced = _traced_for.value
    return traced is not None and traced[0].fsdp > 1


def mapped_devices() -> Placement | None:
    """Return the devices that the current trace may be mapped over; None for none, or one."""
    traced = _traced_for.value
    return traced[0] if traced is not None and traced[1] else None


def gathered(params: Any) -> Any:
    """Return parameters as a loss needs them: replicated on every device where the state is sharded.

    The computation is then split by examples alone, and the gradient is summed into the shards. Without this
    constraint, the compiler may split a layer by channels and communicate activations.
    """
    traced = _traced_for.value
    return params if traced is None or traced[0].fsdp == 1 else _gathered(traced[0], params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gathered(placement: Placement, params: Any) -> Any:
    return jax.lax.with_sharding_constraint(params, placement.outputs)


def _gathered_forward(placement: Placement, params: Any) -> tuple[Any, None]:
    return _gathered(placement, params), None


def _gathered_backward(placement: Placement, _: None, cotangents: Any) -> tuple[Any]:
    return (placement.kept(cotangents),)


_gathered.defvjp(_gathered_forward, _gathered_backward)

#: What functions that need devices accept: a placement, or the mesh of the data-parallel one.
Devices: TypeAlias = Placement | Mesh


def as_placement(devices: Devices) -> Placement:
    """Return the placement itself, or the data-parallel placement of a mesh."""
    return devices if isinstance(devices, Placement) else Placement(devices)


def make_mesh(devices: Sequence[Any] | None = None, *, fsdp: int | None = None) -> Mesh:
    """Return a mesh over ``devices`` (JAX devices; default: all devices of all processes).

    Its axes have type Auto: the compiler places the collectives. (The default of ``jax.make_mesh`` is Explicit, under
    which Linen's dropout raises an error.)

    Args:
        devices: the devices, in the order in which they share a batch.
        fsdp: makes the mesh two-dimensional, (data, fsdp): groups of this many consecutive devices, a divisor of all,
            share a state.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp is None:
        return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))
    axes = (AxisType.Auto, AxisType.Auto)
    return Mesh(np.asarray(devices).reshape(-1, fsdp), (DATA_AXIS, FSDP_AXIS), axis_types=axes)


def check_batch_size(batch_size: int, mesh: Devices, *, accumulate: int = 1) -> None:
    """Reject a global batch that the devices (times the accumulation steps) cannot share equally.

    Raises:
        UsageError: if it cannot be shared; the message has the two nearest valid batch sizes.
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
        num_classes: if given, ``label`` is checked while it is still on the host: see :func:`require_classes`.

    Raises:
        UsageError: if a label is not one of ``num_classes`` classes.
    """
    if num_classes is not None:
        require_classes(batch, num_classes)
    return as_placement(mesh).shard(batch, axis)
