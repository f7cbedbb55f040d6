"""A train step planned before there is a machine for it: sizes, operations, memory and compile time; nothing runs.

The step is compiled ahead of time from shapes, sharded over as many simulated CPU devices as planned. Its inputs and
outputs are the same on any machine; its temporaries are those of the CPU compiler, and another compiler fuses, orders
and pads differently.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.bench.child import run_child
from resnet_jax.bench.ours import batch_axis, optimizer, train_step
from resnet_jax.bench.workload import Workload
from resnet_jax.errors import UsageError
from resnet_jax.models.count import count
from resnet_jax.ops import native
from resnet_jax.training.compile import compile_train_step
from resnet_jax.training.placement import Devices, Placement, as_placement, check_batch_size, fsdp_size
from resnet_jax.training.state import TrainState, init_state

NOTE = (
    "arguments and outputs are exact; temporaries are those of the CPU's compiler: an accelerator's will differ, "
    "most of all where it fuses more or pads channels"
)


def plan(workload: Workload, devices: int = 1) -> dict[str, Any]:
    """Plan the train step of a workload for ``devices`` devices, in a process with as many simulated ones.

    Returns:
        ``params``, ``batch_stats`` and ``macs`` (scalars, and multiply-adds of one image), ``flops_per_step`` (6 MACs
        for each image, on all devices together), ``memory`` and ``split`` (bytes on one device) and ``trace_seconds``,
        ``compile_seconds``.

    Raises:
        UsageError: for a network that cannot be built, or a batch that the devices cannot share.
        RunError: if it cannot be compiled.
    """
    if devices < 1:
        raise UsageError(f"devices must be 1 or more, got {devices}")
    workload.network().config.on_devices(devices)
    fsdp = fsdp_size(devices, workload.placement, workload.fsdp_devices)
    parts = devices * workload.accumulate
    if workload.batch % parts:
        raise UsageError(
            f"a batch of {workload.batch} cannot be shared equally by {devices} devices x {workload.accumulate} "
            f"accumulation steps; use a multiple of {parts}"
        )
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    return {
        "model": workload.model.name,
        "batch": workload.batch,
        "image_size": workload.input_shape[0],
        "devices": devices,
        "placement": workload.placement,
        "fsdp_devices": fsdp,
        "forms": workload.forms,
        **run_child("plan", workload.to_dict(), environment),
        "note": NOTE,
    }


def compile_plan(workload: Workload) -> dict[str, Any]:
    """Compile the train step for all devices of this process and read its memory; see :func:`plan`."""
    mesh = Placement.of(kind=workload.placement, fsdp_devices=workload.fsdp_devices)
    check_batch_size(workload.batch, mesh, accumulate=workload.accumulate)
    model = workload.network()
    model = type(model)(model.config.on_devices(mesh.size))
    tx = optimizer(workload, model)
    state, batch = abstract_arguments(workload, mesh)
    step: Any = compile_train_step(train_step(workload, model, tx), mesh, batch_axis=batch_axis(workload))
    native.available()  # compiled once for a machine, which is not tracing the step
    began = time.perf_counter()
    lowered = step.lower(state, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    took = time.perf_counter() - traced
    sizes = count(model, workload.input_shape)
    memory = memory_of(compiled)
    return {
        **dataclasses.asdict(sizes),
        "flops_per_step": 6 * sizes.macs * workload.batch * workload.steps_per_dispatch,
        "dtype": model.config.dtype,
        "memory": memory,
        "split": split_of(state, batch, memory["temporaries"]),
        "collectives": collectives_of(compiled),
        "trace_seconds": traced - began,
        "compile_seconds": took,
    }


def abstract_arguments(workload: Workload, mesh: Devices) -> tuple[TrainState, dict[str, Any]]:
    """Return the state and the batch as shapes with shardings."""
    model = workload.network()
    tx, axis = optimizer(workload, model), batch_axis(workload)
    shapes = jax.eval_shape(lambda key: init_state(model, tx, key, workload.input_shape), jax.random.key(0))
    leading = (workload.batch,) if axis == 0 else (workload.steps_per_dispatch, workload.batch)
    placement = as_placement(mesh)
    state, cut = placement.abstract(shapes), placement.batch(axis)
    batch = {
        "image": jax.ShapeDtypeStruct((*leading, *workload.input_shape), jnp.float32, sharding=cut),
        "label": jax.ShapeDtypeStruct(leading, jnp.int32, sharding=cut),
    }
    return state, batch


def memory_of(compiled: Any) -> dict[str, int]:
    """Return the memory of a compiled function on one device in bytes.

    ``aliased`` is the part of the outputs that reuses donated arguments; ``peak`` is the maximum: arguments, outputs
    with their own memory, and all temporaries.
    """
    stats = compiled.memory_analysis()
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
    }
    return {**memory, "peak": sum(memory.values()) - 2 * memory["aliased"]}


def collectives_of(compiled: Any) -> dict[str, int]:
    """Return the number of collectives of each kind in the text of a program."""
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    return dict(collections.Counter(re.findall(rf" ({kinds})(?:-start)?\(", compiled.as_text())))


def split_of(state: TrainState, batch: dict[str, Any], temporaries: int) -> dict[str, int]:
    """Return the bytes on one device by content.

    The gradients are estimated: as large as the parameters, and part of the temporaries. The rest of those are
    activations kept for the backward pass, and workspace.
    """
    named = {
        "parameters": bytes_of(state.params),
        "statistics": bytes_of(state.batch_stats),
        "optimizer": bytes_of(state.opt_state),
    }
    gradients = min(bytes_of(jax.tree.map(lambda leaf: leaf.update(sharding=None), state.params)), temporaries)
    return {
        **named,
        "other_state": bytes_of(state) - sum(named.values()),
        "batch": bytes_of(batch),
        "gradients_estimate": gradients,
        "activations": temporaries - gradients,
    }


def bytes_of(tree: Any) -> int:
    """Return the bytes of all arrays, or shapes, of a tree; for those sharded over devices, the part of one."""
    return sum(math.prod(_part(leaf)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _part(leaf: Any) -> tuple[int, ...]:
    where = getattr(leaf, "sharding", None)
    return leaf.shape if where is None else where.shard_shape(leaf.shape)
