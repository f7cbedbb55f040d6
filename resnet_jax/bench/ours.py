"""Our side of a comparison: the compiled train step, or inference with batch norm folded, on data on the device."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

from resnet_jax.bench.limits import image_costs, measure_limits
from resnet_jax.bench.workload import Workload
from resnet_jax.models.count import abstract_variables, count
from resnet_jax.models.initialize import init_variables
from resnet_jax.models.resnet import ResNet
from resnet_jax.ops import in_forms, native
from resnet_jax.runtime.malloc import keep_freed_memory
from resnet_jax.training.compile import INIT_OPTIONS, compile_eval_step, compile_train_step, create_state, options_for
from resnet_jax.training.mesh import make_mesh, shard_batch
from resnet_jax.training.need import ANALYSIS, require_memory
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.options import OptimConfig
from resnet_jax.training.step import make_predict_step, make_train_step
from resnet_jax.weights.prepare import prepare_variables, prepared_network

#: The optimizer of all sides: SGD with momentum 0.9 and L2.
OPTIMIZER = OptimConfig("sgd", learning_rate=0.1, momentum=0.9, weight_decay=1e-4)


def prepare(spec: dict[str, Any]) -> Ours:
    """Build and compile, in a process that keeps its memory as the command line's does; see :mod:`.serve`."""
    keeps_memory = keep_freed_memory()
    workload = on_this_device(Workload.from_dict(spec))
    side, model = Ours(workload), workload.network()
    sizes = count(model, workload.input_shape)
    side.facts |= {
        **environment(),
        "params": sizes.params,
        "keeps_freed_memory": keeps_memory,
        "dtype": model.config.dtype,
        "costs": image_costs(model, workload.input_shape, workload.mode),
    }
    return side


def on_this_device(workload: Workload) -> Workload:
    """Fill in the dtype of the default device."""
    if "dtype" in workload.model.changes:
        return workload
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return dataclasses.replace(workload, model=workload.model.replace(dtype=dtype))


def optimizer(workload: Workload, model: ResNet) -> optax.GradientTransformation:
    """Return the optimizer of a workload."""
    params = abstract_variables(model, workload.input_shape)["params"]
    return make_optimizer(OPTIMIZER, params, steps_per_epoch=1000, total_steps=100_000)[0]


def train_step(workload: Workload, model: ResNet, tx: optax.GradientTransformation) -> Callable[..., Any]:
    """Return the pure train step; with several steps per dispatch, a scan of it over as many batches."""
    step = make_train_step(model, tx, accumulate=workload.accumulate, norm_momentum=model.config.norm_momentum)
    step = in_forms(workload.forms, step)
    if workload.steps_per_dispatch == 1:
        return step
    return lambda state, batches: lax.scan(step, state, batches)


def batch_axis(workload: Workload) -> int:
    """Return the axis of examples in the input of the train step."""
    return 0 if workload.steps_per_dispatch == 1 else 1


def random_batch(workload: Workload, classes: int) -> dict[str, np.ndarray]:
    """Return normally distributed images and random labels, for every step of a dispatch."""
    rng = np.random.default_rng(0)
    leading = (workload.batch,) if workload.steps_per_dispatch == 1 else (workload.steps_per_dispatch, workload.batch)
    image = rng.standard_normal((*leading, *workload.input_shape), np.float32)
    return {"image": image, "label": rng.integers(0, max(classes, 1), leading).astype(np.int32)}


def environment() -> dict[str, Any]:
    """Return the device and the versions."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "cores": cores(),
        "convolutions": native.status() if device.platform == "cpu" else "xla",
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")},
    }


def cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Ours:
    """A compiled step that continues from its own result.

    Attributes:
        facts: seconds of tracing and compiling, bytes of temporaries.
        images: images per call.
    """

    def __init__(self, workload: Workload):
        """Compile and place the data."""
        if jax.default_backend() == "cpu":
            native.available()  # compiled once for a machine, which is not compiling the step
        model, mesh = workload.network(), make_mesh(jax.devices()[:1])
        require_memory(
            model,
            workload.input_shape,
            batch=workload.batch,
            accumulate=workload.accumulate,
            devices=list(mesh.devices.flat),
            warn=lambda line: print(line, file=sys.stderr),
            backward=workload.mode == "train",
            options=ANALYSIS,
        )
        host = random_batch(workload, model.config.num_classes)
        build = self._training if workload.mode == "train" else self._inference
        lower = build(workload, model, mesh, host)
        began = time.perf_counter()
        lowered = lower()
        traced = time.perf_counter()
        self._compiled = lowered.compile()
        compiled = time.perf_counter()
        self.images = workload.batch * workload.steps_per_dispatch
        self._dtype = model.config.dtype
        self.facts: dict[str, Any] = {
            "trace_seconds": traced - began,
            "compile_seconds": compiled - traced,
            "temp_bytes": self._compiled.memory_analysis().temp_size_in_bytes,
        }

    def dispatch(self) -> None:
        """Dispatch one call."""
        if self._donates:
            self._state, self._result = self._compiled(self._state, self._data)
        else:
            self._result = self._compiled(self._state, self._data)

    def wait(self) -> None:
        """Wait for the last call, and thus for all."""
        jax.block_until_ready((self._state, self._result))

    def limits(self) -> dict[str, float]:
        """Measure the machine's limits."""
        return measure_limits(self._dtype)

    def _training(self, workload: Workload, model: ResNet, mesh: Mesh, host: Any) -> Callable[[], Any]:
        tx, axis = optimizer(workload, model), batch_axis(workload)
        step: Any = compile_train_step(train_step(workload, model, tx), mesh, batch_axis=axis)
        self._donates = True
        self._state = create_state(model, tx, jax.random.key(0), workload.input_shape, mesh=mesh)
        self._data = shard_batch(host, mesh, axis)
        jax.block_until_ready((self._state, self._data))
        return lambda: step.lower(self._state, self._data)

    def _inference(self, workload: Workload, model: ResNet, mesh: Mesh, host: Any) -> Callable[[], Any]:
        def init(key: jax.Array) -> Any:
            variables = init_variables(model, key, workload.input_shape)
            return prepare_variables(model, variables, input_shape=workload.input_shape)

        step: Any = compile_eval_step(make_predict_step(prepared_network(model)), mesh)
        self._donates = False
        self._state = jax.jit(init, compiler_options=options_for(INIT_OPTIONS, mesh))(jax.random.key(0))
        self._data = shard_batch({"image": host["image"]}, mesh)
        jax.block_until_ready((self._state, self._data))
        return lambda: step.lower(self._state, self._data)
