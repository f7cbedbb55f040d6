"""What is compiled, for which devices, and with which compiler options.

Every function here takes a pure function and returns it compiled for a mesh. Compiler options are set per jit, never as
global flags, and were chosen by measurement; the tables below give the reasons.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from flax import linen as nn

from resnet_jax.training.options import LossScaling
from resnet_jax.training.placement import Devices, as_placement, traced_for
from resnet_jax.training.state import TrainState, init_state

#: Initialization runs once. On the CPU, XLA spends seconds optimizing each random draw (132 s for an 18-block network
#: with jax 0.12); at level 0 the values agree within float rounding.
INIT_OPTIONS: dict[str, dict[str, Any]] = {"cpu": {"xla_backend_optimization_level": 0}}

#: On the CPU, XLA sends convolutions to YNNPACK by default, which runs many weight gradients on one thread. Eigen's
#: made the ResNet-20 step at batch 128 1.5 to 2.2 times faster (2 cores, jax 0.10.2).
STEP_OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
}

#: For a step that is mapped over several devices. The TPU compiler makes sums over devices asynchronous, and lets
#: kernels overlap with them, only on request; then, at full effort, part of the gradient is communicated alongside
#: kernels (``experiments/results/chips/README.md``). The names are those of libtpu 0.0.42, as used in its vendor's
#: public training code.
MAPPED_OPTIONS: dict[str, dict[str, Any]] = {
    "tpu": {
        "xla_enable_async_all_reduce": True,
        "xla_tpu_enable_async_collective_fusion": True,
        "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": True,
        "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
        "xla_tpu_overlap_compute_collective_tc": True,
    }
}


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """A compiled step with its last argument bound: arrays that are the same at every call and never donated.

    Attributes:
        jitted: what ``jax.jit`` returned.
        arrays: the arrays, on the devices.
    """

    jitted: Any
    arrays: Any

    def __call__(self, *arguments: Any) -> Any:
        """Call the step."""
        return self.jitted(*arguments, self.arrays)

    def lower(self, *arguments: Any) -> Any:
        """Lower the step; the compiled result takes the arrays in the same way."""
        return Given(self.jitted.lower(*arguments, self.arrays), self.arrays)

    def compile(self) -> Any:
        """Compile the lowered step."""
        return Given(self.jitted.compile(), self.arrays)


def create_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: jax.Array,
    input_shape: Sequence[int],
    *,
    mesh: Devices,
    ema: bool = False,
    loss_scaling: LossScaling | None = None,
    start: Callable[[Any], Any] | None = None,
) -> TrainState:
    """Build the state inside jit, directly on its devices: no host copy, and one compiled step afterwards.

    See :func:`resnet_jax.training.state.init_state` for the arguments.
    """

    def init(key):
        return init_state(model, tx, key, input_shape, ema=ema, loss_scaling=loss_scaling, start=start)

    where = as_placement(mesh).state(jax.eval_shape(init, key))
    return jax.jit(init, out_shardings=where, compiler_options=options_for(INIT_OPTIONS, mesh))(key)


def compile_train_step(
    step: Callable[..., Any],
    mesh: Devices,
    *,
    donate: bool = True,
    batch_axis: int = 0,
    mapped: bool = True,
    given: Any = None,
) -> Callable[..., Any]:
    """Jit ``step(state, batch) -> (state, metrics)`` with a donated state and a sharded batch.

    On several devices, a step of :func:`~resnet_jax.training.step.make_train_step` is mapped over them where possible
    (:mod:`resnet_jax.training.mapped`).

    Args:
        step: a pure function.
        mesh: the devices, as a mesh or a :class:`~resnet_jax.training.placement.Placement`.
        donate: whether the state's memory may be reused.
        batch_axis: the batch axis, which is sharded over the devices; 1 for a population.
        mapped: False lets the compiler partition the step over several devices.
        given: arrays that the step takes as its third argument, replicated on every device; None for none.
    """
    placement = as_placement(mesh)
    state, more = placement.state(), () if given is None else (placement.outputs,)

    @functools.wraps(step)  # programs are kept under the step's name
    def placed_step(state: Any, batch: Any, *given: Any) -> Any:
        with traced_for(placement, mapped=mapped and batch_axis == 0):
            new, metrics = step(state, batch, *given)
        return placement.kept(new), metrics

    jitted = jax.jit(
        step if placement.size == 1 else placed_step,
        in_shardings=(state, placement.batch(batch_axis), *more),
        out_shardings=(state, placement.outputs),
        donate_argnums=(0,) if donate else (),
        compiler_options=step_options(mesh, mapped=mapped and batch_axis == 0),
    )
    return jitted if given is None else Given(jitted, given)


def compile_eval_step(step: Callable[..., Any], mesh: Devices, *, mapped: bool = True) -> Callable[..., Any]:
    """Jit ``step(variables, batch) -> outputs``; outputs are replicated, so that every process can read them.

    Args:
        step: a pure function.
        mesh: the devices.
        mapped: as for :func:`compile_train_step`.
    """
    placement = as_placement(mesh)

    @functools.wraps(step)
    def placed_step(variables: Any, batch: Any) -> Any:
        if placement.fsdp > 1:
            variables = jax.lax.with_sharding_constraint(variables, placement.outputs)
        with traced_for(placement, mapped=mapped):
            return step(variables, batch)

    return jax.jit(
        step if placement.size == 1 else placed_step,
        in_shardings=(placement.state(), placement.batch()),
        out_shardings=placement.outputs,
        compiler_options=options_for(STEP_OPTIONS, mesh),
    )


def options_for(table: dict[str, dict[str, Any]], mesh: Devices) -> dict[str, Any] | None:
    """Return the compiler options of a table for these devices."""
    return table.get(as_placement(mesh).platform)


def step_options(mesh: Devices, *, mapped: bool) -> dict[str, Any] | None:
    """Return the compiler options of a train step: :data:`STEP_OPTIONS`, and those for a mapped step.

    Args:
        mesh: the devices.
        mapped: whether it may be mapped over them.
    """
    own, more = options_for(STEP_OPTIONS, mesh), options_for(MAPPED_OPTIONS, mesh)
    return {**(own or {}), **more} if more and mapped and as_placement(mesh).size > 1 else own
