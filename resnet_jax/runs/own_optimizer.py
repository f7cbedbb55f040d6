"""The optimizer of a trained run with its state, to compute what the next update of its network would be."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax

from resnet_jax.errors import RunError
from resnet_jax.models.count import abstract_variables
from resnet_jax.runs.build import build_network, loss_scaling
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.length import length_of
from resnet_jax.runs.trained import TrainedRun
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.options import ScheduleConfig
from resnet_jax.training.placement import Placement
from resnet_jax.training.state import init_state


def own_optimizer(
    trained: TrainedRun, learning_rate: float, checkpoint: str | None
) -> tuple[tuple[optax.GradientTransformation, Any], str]:
    """Return the run's optimizer with its state, or a new one or plain SGD if it has none, and say which.

    None of the run's images are read: data.json contains their number.

    Args:
        trained: the run, computed on one device.
        learning_rate: learning rate of plain SGD.
        checkpoint: whose state to use: last or best; None: the one the run tested.
    """
    config, model, card = trained.config, trained.model, trained.card
    if not trained.was_trained_here:  # imported: it was never trained here
        tx = optax.sgd(learning_rate)
        text = f"of plain SGD, learning rate {learning_rate:g}: the network was imported without an optimizer"
        return (tx, tx.init(trained.variables["params"])), text
    steps_per_epoch = card.examples["train"] // config.train.batch_size
    optimizer = functools.partial(
        make_optimizer,
        params=abstract_variables(model, card.image_shape)["params"],
        steps_per_epoch=steps_per_epoch,
        total_steps=length_of(config, steps_per_epoch).steps,
    )
    tx, schedule = optimizer(config.optim)
    text = f"of the run's own {config.optim.name}"
    if np.asarray(schedule(trained.step)) == 0:  # a schedule that has come to its end: the next update would be nothing
        tx, _ = optimizer(dataclasses.replace(config.optim, schedule=ScheduleConfig()))
        text += f" at its base learning rate {config.optim.learning_rate:g} (the schedule has ended at 0)"
    try:
        return (tx, _restored(trained, tx, checkpoint)), f"{text}, with its state after step {trained.step:,}"
    except RunError:
        fresh = tx.init(trained.variables["params"])
        return (tx, fresh), f"{text}, with a fresh state: the checkpoint has none for this network"


def _restored(trained: TrainedRun, tx: optax.GradientTransformation, checkpoint: str | None) -> Any:
    config, model = trained.config, trained.model
    state = jax.eval_shape(
        lambda key: init_state(
            model,
            tx,
            key,
            trained.card.image_shape,
            ema=config.train.averaging() is not None,
            loss_scaling=loss_scaling(config, build_network(config, trained.card)),
        ),
        jax.random.key(0),
    )
    like = Placement.of(jax.devices()[:1]).abstract(state)
    kind: Any = checkpoint or config.train.select
    with Checkpoints(RunDirectory(trained.path).checkpoints, owner=False) as checkpoints:
        return checkpoints.restore(kind, like)[0].opt_state
