"""Quantization-aware training: continue training a folded network for a while with rounding in the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.data.records import Records
from resnet_jax.deploy.quantize.images import trainable
from resnet_jax.deploy.quantize.options import Quantization
from resnet_jax.deploy.quantize.straight_through import RoundedResNet
from resnet_jax.errors import RunError
from resnet_jax.runs.preparation import train_preprocess
from resnet_jax.runs.trained import TrainedRun
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import make_train_step

MOMENTUM = 0.9
EVERY = 50
"""Updates between two progress lines."""


def train_rounded(
    trained: TrainedRun,
    network: RoundedResNet,
    variables: dict[str, Any],
    records: Records,
    options: Quantization,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the variables after training with rounding, with the run's own loss and augmentation and SGD along a
    cosine.

    Batch norm is folded and stays so; its statistics do not change. There is no weight decay, and the ranges of
    activations stay those of the calibration.

    Args:
        trained: the run.
        network: the network to train.
        variables: its variables.
        records: training images, with labels that index the network's outputs.
        options: number of updates, learning rate, batch size.
        say: called with the loss from time to time.

    Raises:
        RunError: the loss is not finite.
        UsageError: there are too few images for a batch.
    """

    def schedule(count: Any) -> Any:
        return options.learning_rate * 0.5 * (1.0 + jnp.cos(jnp.pi * count.astype(jnp.float32) / options.steps))

    tx = optax.chain(optax.clip_by_global_norm(5.0), optax.sgd(schedule, MOMENTUM))
    preprocess = train_preprocess(trained.config, network, trained.card)
    step = jax.jit(make_train_step(network, tx, task=trained.task, preprocess=preprocess), donate_argnums=0)
    params = jax.tree.map(jnp.array, variables["params"])  # copies, because the step donates them
    state = TrainState(
        step=jnp.zeros((), jnp.int32), params=params, batch_stats={}, opt_state=tx.init(params),
        rng=jax.random.key(options.seed),
    )  # fmt: skip
    batches = TrainBatches(
        trainable(trained, records), options.batch_size, seed=options.seed, geometry=trained.geometry
    )
    losses = []
    for number, batch in enumerate(batches.iterate(0, options.steps), start=1):
        state, metrics = step(state, batch)
        losses.append(metrics["loss"])
        if number % EVERY == 0 or number == options.steps:
            loss = float(jnp.mean(jnp.stack(losses)))
            if not loss < float("inf"):
                raise RunError(f"the loss of update {number} is not finite: give a lower learning-rate")
            say(f"  update {number:,} of {options.steps:,}: loss {loss:.4f}")
            losses = []
    return {"params": state.params}
