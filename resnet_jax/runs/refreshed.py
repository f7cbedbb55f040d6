"""Batch statistics of averaged weights, recomputed on training images before each validation.

Averaged weights never had batch statistics of their own (Izmailov et al. 2018, section 3.3). The recomputed statistics
go into the averages of the state, so they are what is validated, saved, tested and loaded. They depend only on the
averaged weights and on the images, which are the same each time; training does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from resnet_jax.data.records import Subset
from resnet_jax.data.rng import SHUFFLE, permutation
from resnet_jax.errors import UsageError
from resnet_jax.models.count import abstract_variables
from resnet_jax.runs.build import RunComponents, evaluation_feed
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import RunData
from resnet_jax.runs.preparation import eval_preprocess
from resnet_jax.training.duration import parse_duration
from resnet_jax.training.reestimation import Reestimation
from resnet_jax.training.state import TrainState

#: Number of batches for stochastic weight averaging, unless train.ema.reestimate is set.
BATCHES = 50


def batches_of(config: RunConfig, *, has_statistics: bool) -> int:
    """Return the number of batches for the averages' statistics; 0 for none.

    Raises:
        UsageError: if a number is set for a network without batch statistics.
    """
    averaging = config.train.averaging()
    wanted = 0 if averaging is None else averaging.reestimate
    if wanted is None:
        return BATCHES if config.train.ema.kind == "swa" and has_statistics else 0
    if wanted and not has_statistics:
        raise UsageError(f"train.ema.reestimate {wanted}: the network has no batch statistics to measure; leave it out")
    return wanted


def make_refresh(config: RunConfig, images: RunData, parts: RunComponents) -> Callable[[TrainState], TrainState] | None:
    """Return ``refresh(state) -> state`` of a run; None if nothing is recomputed.

    Before the first snapshot of stochastic weight averaging, when the average is the network itself, it returns the
    state unchanged.

    Raises:
        UsageError: if there are fewer batches, or the network has no batch statistics.
    """
    variables = abstract_variables(parts.model, images.card.image_shape)
    wanted = batches_of(config, has_statistics=bool(jax.tree.leaves(variables.get("batch_stats", {}))))
    if not wanted:
        return None
    train, size, averaging = images.splits.train, config.train.batch_size, config.train.ema
    most = len(train) // size
    if averaging.reestimate is None:
        wanted = min(wanted, most)
    if wanted > most:
        raise UsageError(f"train.ema.reestimate {wanted}: there are {most} batches of {size} training images")
    order = permutation(len(train), config.seed, SHUFFLE)[: wanted * size]
    start = 0
    if averaging.kind == "swa":
        plan = parts.plan
        start = parse_duration(averaging.over(plan.steps_per_epoch, plan.total_steps).start).steps(1)
    measure = Reestimation(
        parts.model,
        norm_momentum=parts.model.config.norm_momentum,
        preprocess=eval_preprocess(parts.model, images.card),
        mesh=parts.placement,
    )

    def refresh(state: TrainState) -> TrainState:
        if int(state.step) < start:
            return state
        feed = evaluation_feed(config, Subset(train, order), unreadable=images.unreadable_of(train))
        measured = measure(state.ema, (batch for batch in feed if np.all(batch["mask"])))  # without unreadable images
        return state.replace(ema=jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), measured, state.ema))

    return refresh
