"""Placement: the devices of a training, and how its state, its batches and its outputs are sharded over them.

Examples are cut over all devices. The state lies whole on every device, or is cut too ("fully sharded data parallel",
arXiv 1910.02054: ZeRO, stage 3): over the second axis, ``fsdp``, of a mesh (data, fsdp). Each of the ``data`` groups of
``fsdp`` consecutive devices then holds parameters, optimizer state and moving averages once. What is computed is the
same: the compiler gathers parameters where they are used, and sums gradients into the parts.

A :class:`Placement` is a value: whoever compiles a step or puts arrays on devices asks it, and nobody else knows how
anything lies.
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

#: Arrays of fewer elements lie whole on every device: there is little to save, and each would be gathered by itself.
SMALLEST = 2**12


def cut_axis(shape: Sequence[int], parts: int, smallest: int = SMALLEST) -> int | None:
    """Return the axis along which an array is cut into equal parts: the largest that can be, the last of equals.

    Args:
        shape: of the array.
        parts: devices to cut it over.
        smallest: elements from which on arrays are cut.

    Returns:
        None where it stays whole: it is small, or no axis can be cut.

    >>> cut_axis((3, 3, 64, 128), 8), cut_axis((2048, 1000), 16), cut_axis((7, 7, 3, 63), 8), cut_axis((64,), 8)
    (3, 0, None, None)
    """
    able = [axis for axis, size in enumerate(shape) if size and size % parts == 0]
    if parts == 1 or not able or math.prod(shape) < smallest:
        return None
    return max(able, key=lambda axis: (shape[axis], axis))


def fsdp_size(devices: int, kind: PlacementChoice, fsdp_devices: int | None) -> int | None:
    """Return over how many of so many devices a state is cut; None where it lies whole on each.

    Raises:
        UsageError: ``fsdp_devices`` without ``fsdp``, or no divisor of the devices.
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
    """Data-parallel placement: batches cut over the devices, outputs replicated, the state as the mesh says.

    Attributes:
        mesh: the devices, along the axis ``data``; with a second axis, ``fsdp``, the state is cut over that.
        smallest: elements from which on an array of the state is cut (:func:`cut_axis`).

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
            devices: JAX devices (default: all of them, of all processes).
            kind: ``replicated``, or ``fsdp``: the state is cut over the devices.
            fsdp_devices: over how many consecutive ones it is cut, for ``fsdp``; None for all.
            smallest: elements from which on an array is cut.

        Raises:
            UsageError: ``fsdp_devices`` without ``fsdp``, or more than there are devices, or none of their divisors.
        """
        devices = jax.devices() if devices is None else devices
        return cls(make_mesh(devices, fsdp=fsdp_size(len(devices), kind, fsdp_devices)), smallest)

    @property
    def fsdp(self) -> int:
        """Over how many devices the state is cut; 1: it lies whole on every device."""
        return self.mesh.shape.get(FSDP_AXIS, 1)

    def state(self, tree: Any = None) -> Any:
        """Return where a state lies: a sharding, or a tree of them, as ``jax.jit`` and ``jax.device_put`` take it.

        Args:
            tree: the state, its shapes, or a part of either. Where the state is not cut, every array lies whole on
                every device, whatever the tree. Where it is cut, the tree decides: large arrays by :func:`cut_axis`,
                batch statistics never. Without one it is None: as the arguments lie.
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
        """Return a state that a compiled function makes, told to lie as a state does; for use while it is traced."""
        return state if self.fsdp == 1 else jax.lax.with_sharding_constraint(state, self.state(state))

    def whole(self, tree: Any) -> Any:
        """Return arrays of the state whole on every device, to be read by any process; all processes call it."""
        if self.fsdp == 1:
            return tree
        return jax.jit(lambda tree: tree, out_shardings=self.outputs)(tree)

    def batch(self, axis: int = 0) -> NamedSharding:
        """Return where a batch lies: its axis of examples, the leading one if nothing is said, is cut over devices."""
        cut = (DATA_AXIS, FSDP_AXIS) if FSDP_AXIS in self.mesh.shape else DATA_AXIS
        return NamedSharding(self.mesh, PartitionSpec(*(None,) * axis, cut))

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

    @property
    def described(self) -> str:
        """The devices in words: ``8 x TPU v5e, the state cut over 4``."""
        text = f"{self.size} x {self.devices[0].device_kind}"
        return text if self.fsdp == 1 else f"{text}, the state cut over {self.fsdp}"

    def shard(self, batch: Mapping[str, np.ndarray], axis: int = 0) -> dict[str, jax.Array]:
        """Put this process's part of a batch on its devices; together the processes hold the global batch.

        Args:
            batch: host arrays.
            axis: the axis of examples.
        """
        where = self.batch(axis)
        return {name: jax.make_array_from_process_local_data(where, value) for name, value in batch.items()}


#: The placement of what is traced, of several devices, and whether it may be mapped over them. JAX keeps it for each
#: thread, and in the key of every cache of traced functions.
_traced_for = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def traced_for(placement: Placement, *, mapped: bool = True) -> Iterator[None]:
    """Let a step know, while it is traced, for which devices it will be compiled.

    Args:
        placement: the devices.
        mapped: whether it may be mapped over them; not a population's, whose members are mapped already.
    """
    with _traced_for((placement, mapped) if placement.size > 1 else None):
        yield


def is_cut() -> bool:
    """Return whether the state of the step that is traced is cut over devices."""
    traced = _traced_for.value
    return traced is not None and traced[0].fsdp > 1


def mapped_devices() -> Placement | None:
    """Return the devices over which what is traced now may be mapped; None for none, or one."""
    traced = _traced_for.value
    return traced[0] if traced is not None and traced[1] else None


def gathered(params: Any) -> Any:
    """Return parameters as a loss takes them: whole on every device, wherever the state is cut.

    So what is computed from them is divided by examples alone, and their gradient is summed into the parts. Without
    being told, the compiler may divide a layer by its channels and send activations.
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

#: What functions that need devices take: a placement, or the mesh of the data-parallel one.
Devices: TypeAlias = Placement | Mesh


def as_placement(devices: Devices) -> Placement:
    """Return the placement itself, or the data-parallel one of a mesh."""
    return devices if isinstance(devices, Placement) else Placement(devices)


def make_mesh(devices: Sequence[Any] | None = None, *, fsdp: int | None = None) -> Mesh:
    """Return a mesh over ``devices`` (JAX devices; default: all of them, of all processes).

    Its axes are of type Auto: the compiler places the collectives. (The default of ``jax.make_mesh`` is Explicit,
    under which Linen's dropout raises.)

    Args:
        devices: in the order in which they share a batch.
        fsdp: makes it two-dimensional, (data, fsdp): groups of so many consecutive devices, a divisor of all, share a
            state.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp is None:
        return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))
    axes = (AxisType.Auto, AxisType.Auto)
    return Mesh(np.asarray(devices).reshape(-1, fsdp), (DATA_AXIS, FSDP_AXIS), axis_types=axes)


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
