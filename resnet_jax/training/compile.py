"""What is compiled, for which devices, with which compiler options.

Every function here takes a pure function and returns the compiled one for a mesh. The options are per jit, never
global flags, and chosen by measurement; the tables say which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from resnet_jax.training.loss_scale import LossScaling
from resnet_jax.training.mesh import batch_sharding, replicated
from resnet_jax.training.state import TrainState, init_state

#: Initialization runs once. On the CPU, XLA spends seconds on optimizing each random draw (132 s for an 18-block
#: network with jax 0.12); at level 0 the values agree within float rounding.
INIT_OPTIONS: dict[str, dict[str, Any]] = {"cpu": {"xla_backend_optimization_level": 0}}

#: On the CPU, XLA's default sends convolutions to YNNPACK, which runs many weight gradients on one thread. Eigen's
#: made the ResNet-20 step at batch 128 1.5 to 2.2 times faster (2 cores, jax 0.10.2).
STEP_OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
}


def create_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: jax.Array,
    input_shape: Sequence[int],
    *,
    mesh: Mesh,
    ema: bool = False,
    loss_scaling: LossScaling | None = None,
) -> TrainState:
    """Build the state inside jit, already on its devices: no host copy, and one compiled step afterwards.

    See :func:`resnet_jax.training.state.init_state` for the arguments.
    """

    def init(key):
        return init_state(model, tx, key, input_shape, ema=ema, loss_scaling=loss_scaling)

    return jax.jit(init, out_shardings=replicated(mesh), compiler_options=options_for(INIT_OPTIONS, mesh))(key)


def compile_train_step(
    step: Callable[..., Any], mesh: Mesh, *, donate: bool = True, batch_axis: int = 0
) -> Callable[..., Any]:
    """Jit ``step(state, batch) -> (state, metrics)`` with a donated, replicated state and a sharded batch.

    Args:
        step: a pure function.
        mesh: the devices.
        donate: whether the state's memory may be used again.
        batch_axis: the batch's axis of examples, which is cut over the devices; 1 for a population.
    """
    state, batch = replicated(mesh), batch_sharding(mesh, batch_axis)
    return jax.jit(
        step,
        in_shardings=(state, batch),
        out_shardings=(state, state),
        donate_argnums=(0,) if donate else (),
        compiler_options=options_for(STEP_OPTIONS, mesh),
    )


def compile_eval_step(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Jit ``step(variables, batch) -> outputs``; outputs are replicated, so that every process can read them."""
    return jax.jit(
        step,
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=replicated(mesh),
        compiler_options=options_for(STEP_OPTIONS, mesh),
    )


def options_for(table: dict[str, dict[str, Any]], mesh: Mesh) -> dict[str, Any] | None:
    """Return the compiler options of a table for the devices of a mesh."""
    return table.get(mesh.devices.flat[0].platform)
