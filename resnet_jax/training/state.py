"""TrainState: everything one training step reads and writes, as one pytree of arrays and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import flax.struct
import jax
import jax.numpy as jnp
import lazy_loader
from flax import linen as nn

from resnet_jax.models.initialize import init_variables
from resnet_jax.training.ema import ema_init
from resnet_jax.training.loss_scale import LossScale, init_loss_scale
from resnet_jax.training.options import LossScaling

if TYPE_CHECKING:
    import optax
else:
    optax = lazy_loader.load("optax")  # for annotations alone


class TrainState(flax.struct.PyTreeNode):
    """The state of a training run; a step is ``state, metrics = train_step(state, batch)``.

    It holds arrays only. The step closes over the model, the optimizer and the loss, so two states of one run always
    have equal tree structure and the compiled step is reused.

    Attributes:
        step: number of optimizer updates tried so far, int32 scalar; also the position in the data.
        params: the trainable parameters.
        batch_stats: running means and variances; an empty dict for a network without batch norm.
        opt_state: the optimizer state.
        rng: PRNG key of the run. It never changes; other keys are derived by folding in the step, epoch or index.
        ema: exponential moving averages ``{"params": ..., "batch_stats": ...}``, or None.
        loss_scale: the dynamic loss scale for training in float16, or None.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    rng: jax.Array
    ema: Any = None
    loss_scale: LossScale | None = None

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of the network as trained: what ``model.apply`` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> dict[str, Any]:
        """The variables to evaluate: the averaged ones if there are any, otherwise the trained ones."""
        return self.variables if self.ema is None else self.ema


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: jax.Array,
    input_shape: Sequence[int],
    *,
    ema: bool = False,
    loss_scaling: LossScaling | None = None,
    start: Callable[[Any], Any] | None = None,
) -> TrainState:
    """Initialize a state. Pure; :func:`create_state` runs it inside jit with shardings.

    Args:
        model: any Linen module called as ``model(x, train=...)``.
        tx: the optimizer.
        key: PRNG key of the run.
        input_shape: shape of one example, without the batch axis.
        ema: also keep moving averages, initialized to the initial values.
        loss_scaling: loss scaling of the train step, if any.
        start: maps initial parameters to those to start from, for example with a kernel computed from data; the
            optimizer state and the averages start with these.

    >>> from resnet_jax.models import create_model
    >>> model = create_model("resnet20_cifar")
    >>> state = jax.eval_shape(lambda k: init_state(model, optax.sgd(0.1), k, (32, 32, 3)), jax.random.key(0))
    >>> state.step.dtype, state.params["head"]["kernel"].shape
    (dtype('int32'), (64, 10))
    """
    init_key, run_key = jax.random.split(key)
    variables = init_variables(model, init_key, input_shape)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    params = params if start is None else start(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        rng=run_key,
        ema=ema_init({"params": params, "batch_stats": batch_stats}) if ema else None,
        loss_scale=None if loss_scaling is None else init_loss_scale(loss_scaling),
    )
