"""The part of a step that every device computes for its own examples, mapped over the devices with ``shard_map``.

By default, the compiler partitions a step over the devices and waits for all of them wherever a sum runs over examples:
two waits for the statistics of every batch norm, and gradients wherever it chooses. A mapped step states what is
communicated:

* **batch norm**: one gather of mean and variance in the forward pass, one sum in the backward pass
  (:mod:`resnet_jax.models.union`). Norms whose scope is one device communicate nothing there; the running averages of
  all norms are combined at the end of the step;
* **gradients**, loss and metrics: a few sums, each over the layers that the backward pass has finished, so that
  communication overlaps with it (:mod:`resnet_jax.training.pieces`).

Inside, no compiler splits arrays, so on CPU devices the compiled C++ forms run as on a single one. Augmentation is not
mapped, because it may mix examples of the batch. Dropout masks are drawn for the whole batch
(:mod:`resnet_jax.ops.whole_batch`). The numbers equal those of one device up to rounding.

A step is mapped only if it is known to treat each example independently and its batch norm knows the devices: this
library's networks and tasks, on devices that each hold the whole state. For everything else, :func:`unmapped` gives the
reason, and the compiler partitions the step as usual.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from jax.sharding import PartitionSpec

from resnet_jax.models import ResNet
from resnet_jax.models.collections import PROBES
from resnet_jax.models.norm import leave_biased
from resnet_jax.models.union import leave_apart
from resnet_jax.ops import batch_cut_over
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.task import Task
from resnet_jax.training.accumulate import unbias
from resnet_jax.training.pieces import summed
from resnet_jax.training.placement import DATA_AXIS, Placement, mapped_devices

#: Norms that treat each example independently, or, like ``batch``, know the devices.
NORMS = frozenset({"batch", "group", "layer", "instance", "none", "folded"})

#: The batch-norm scopes whose running averages cover more examples than each example is normalized with.
_APART = frozenset({"ghost", "device", "device_group"})


def unmapped(model: nn.Module, placement: Placement, task: Task | None = None) -> str | None:
    """Return why a network's step is left to the compiler on these devices, or None if it is mapped over them.

    Args:
        model: the network.
        placement: the devices.
        task: the task of a train step; evaluation maps only the network.
    """
    if placement.size == 1:
        return "there is one device"
    if placement.fsdp > 1:
        return f"the state is sharded over {placement.fsdp} devices"
    if type(model) is not ResNet:
        return f"{type(model).__name__} is not one of this library's networks"
    config = model.config
    if config.norm not in NORMS:
        return f"norm {config.norm} is not this library's"
    if config.axis_name is not None:
        return f"the network has a mapped axis of its own, {config.axis_name}"
    if config.norm_scope in ("device", "device_group") and config.norm_devices != placement.size:
        return f"norm_scope {config.norm_scope} is of {config.norm_devices} devices, and there are {placement.size}"
    return None if task is None else _mixing(task)


def _mixing(task: Task) -> str | None:
    """Return why the loss of a task might mix examples, or None if it is known not to."""
    if not type(task).__module__.startswith("resnet_jax.tasks."):
        return f"task {type(task).__name__} is not this library's, and might mix examples of the batch"
    if getattr(task, "compares", False):
        return f"task {task.kind} compares the examples of the whole batch with each other"
    if isinstance(task, Classification) and not isinstance(task.criterion, str):
        module = getattr(getattr(task.criterion, "func", task.criterion), "__module__", "")
        if module != "resnet_jax.tasks.losses":
            return "the loss is not this library's, and might mix examples of the batch"
    for part in getattr(task, "parts", ()):
        if (reason := _mixing(part.task)) is not None:
            return reason
    return None


def mapped_over(model: nn.Module, task: Task | None, examples: int, micro_batches: int = 1) -> Placement | None:
    """Return the devices that the current trace is mapped over, or None if it is left to the compiler.

    Args:
        model: the network.
        task: the task of a train step.
        examples: number of examples in the batch.
        micro_batches: number of micro-batches it is split into.
    """
    placement = mapped_devices()
    if placement is None or unmapped(model, placement, task) or uncut(model, examples, placement.size * micro_batches):
        return None
    return placement


def uncut(model: nn.Module, examples: int, parts: int) -> str | None:
    """Return why these examples cannot be split into this many parts, one per device, or None if they can."""
    if examples % parts:
        return f"{examples} examples do not divide over {parts} parts"
    config: Any = getattr(model, "config", None)
    if config is None or config.norm != "batch" or config.norm_scope != "ghost" or not config.ghost_size:
        return None
    if (examples // parts) % config.ghost_size:
        return f"ghost batches of {config.ghost_size} would lie on more than one device"
    return None


def mapped_gradients(
    gradients: Callable[..., Any], model: nn.Module, placement: Placement
) -> Callable[[Any, Any, Mapping[str, jax.Array], jax.Array, Any], Any]:
    """Return ``gradients`` of a batch, computed from those of its parts on the devices.

    Args:
        gradients: ``(network, trained, batch_stats, batch, dropout_key, scale) -> ((loss, (batch_stats, sums)),
            grads)``: mean loss, running statistics, sums over examples, and the gradient of the loss.
        model: the network.
        placement: the devices.

    Returns:
        The same function of the whole batch, without ``network``.
    """
    assert isinstance(model, ResNet)  # or it is not mapped
    config = model.config
    network = model.clone(config=dataclasses.replace(config, axis_name=DATA_AXIS))
    apart = config.norm == "batch" and config.norm_scope in _APART

    whole, rows = PartitionSpec(), PartitionSpec(DATA_AXIS)

    def part(trained: Any, batch_stats: Any, batch: Any, dropout_key: jax.Array, scale: Any) -> Any:
        with batch_cut_over(DATA_AXIS):
            if apart:
                with leave_apart(), leave_biased() as counts:
                    (value, (stats, sums)), grads = gradients(network, trained, batch_stats, batch, dropout_key, scale)
                stats = united(stats, config.norm_momentum, DATA_AXIS)
                stats = unbias(stats, counts, jax.tree.map(lambda x: config.norm_momentum * x, batch_stats))
            else:
                (value, (stats, sums)), grads = gradients(network, trained, batch_stats, batch, dropout_key, scale)
        if PROBES in grads:  # a number for each example: what is added up of them crosses, not they
            grads = {**grads, PROBES: jax.tree.map(lambda x: jnp.sum(x, -1, keepdims=True), grads[PROBES])}
        grads, (value, sums) = summed(grads, (value, sums), DATA_AXIS, laid=placement.platform != "tpu")
        value, grads = jax.tree.map(lambda x: x / jnp.asarray(placement.size, x.dtype), (value, grads))
        return (value, (stats, sums)), grads

    def mapped(trained: Any, batch_stats: Any, batch: Any, dropout_key: jax.Array, scale: Any) -> Any:
        probes = jax.tree.map(lambda x: PartitionSpec(*(None,) * (x.ndim - 1), DATA_AXIS), trained.get(PROBES, {}))
        cut = {name: probes if name == PROBES else whole for name in trained}
        # Without check_vma, which would sum the gradient of every array immediately, one by one.
        return jax.shard_map(
            part, mesh=placement.mesh, in_specs=(cut, whole, rows, whole, whole), out_specs=whole, check_vma=False
        )(trained, batch_stats, batch, dropout_key, scale)

    return mapped


def mapped_outputs(model: nn.Module, placement: Placement) -> Callable[[Any, jax.Array], jax.Array]:
    """Return ``(variables, images) -> outputs`` in evaluation mode, where every device handles its own images."""
    whole, rows = PartitionSpec(), PartitionSpec(DATA_AXIS)

    def part(variables: Any, images: jax.Array) -> Any:
        return model.apply(variables, images, train=False)

    return jax.shard_map(part, mesh=placement.mesh, in_specs=(whole, rows), out_specs=rows, check_vma=False)


def united(stats: Any, momentum: float, axis_name: str) -> Any:
    """Return the running statistics of a batch whose parts on the devices were computed from the *same* old ones.

    As :func:`~resnet_jax.training.accumulate.pool_statistics`, with two waits for those of all norms together.

    Args:
        stats: nested dicts whose innermost are ``{"mean": (C,), "var": (C,)}``.
        momentum: weight of the old running average.
        axis_name: the mapped axis.
    """
    flat: dict[Any, Any] = dict(flatten_dict(stats))
    paths = [path[:-1] for path in flat if path[-1] == "mean"]
    if not paths:
        return stats
    mean, var = (jnp.concatenate([flat[*path, name].reshape(-1) for path in paths]) for name in ("mean", "var"))
    whole = lax.pmean(mean, axis_name)
    var = lax.pmean(var + jnp.square(mean - whole) / (1.0 - momentum), axis_name)
    start = 0
    for path in paths:
        shape = flat[*path, "mean"].shape
        stop = start + math.prod(shape)
        flat[*path, "mean"], flat[*path, "var"] = (row[start:stop].reshape(shape) for row in (whole, var))
        start = stop
    return unflatten_dict(flat)
