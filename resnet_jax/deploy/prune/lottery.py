"""Lottery tickets: train, prune the smallest weights, rewind to an early step and train again, round after round.

Frankle & Carbin 2019 (arXiv 1803.03635) rewind to the initial weights, Frankle et al. 2020 (arXiv 1912.05671) to those
of an early step k. Here the whole state is rewound: weights, optimizer, batch statistics, and the position in data and
schedule. Round r is therefore a run directory whose newest checkpoint is the state after step k with the pruned weights
set to zero. Training resumes from it with the batches that the dense run saw; the masks are in the optimizer's state
(``optim.keep_zeros``). Existing rounds are not repeated.

=================  ==================================================================
``rewind/``        the state of the dense run after step k, recomputed from its seed
``round1/`` ...    run directories; ``prune.json`` in each records its density
``table.md`` ...   a row for each round, the dense run first
=================  ==================================================================
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from rich.console import Console

from resnet_jax.deploy.prune.how import HowToPrune
from resnet_jax.deploy.prune.magnitude import density, magnitude_masks, masked
from resnet_jax.deploy.prune.structured import RECORD
from resnet_jax.errors import UsageError
from resnet_jax.runs.build import RunComponents, build_parts
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import RunData, load_images
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.finetune import find_source, start_state
from resnet_jax.runs.fit import fit
from resnet_jax.runs.outcome import Summary
from resnet_jax.runs.trained import TrainedRun, load_run
from resnet_jax.runtime.files import write_whole
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.duration import parse_duration
from resnet_jax.training.members import restore, save
from resnet_jax.training.progress import Progress
from resnet_jax.training.sparsity import with_masks
from resnet_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Round:
    """A round of a lottery.

    Attributes:
        number: from 1; 0 is the dense run.
        density: share of the kernels' weights that are not pruned.
        summary: summary of its run.
    """

    number: int
    density: float
    summary: Summary


def lottery(
    trained: TrainedRun, how: HowToPrune, out: Path, *, console: Console | None, tell: Callable[[str], None]
) -> list[Round]:
    """Run the rounds, starting from a finished run. Existing rounds are not repeated.

    Args:
        trained: the dense run, trained by this package.
        how: in each of ``rounds``, ``ratio`` of the remaining weights is pruned and the state rewinds to ``rewind``.
        out: the directory.
        console: displays the progress of training.
        tell: called with lines of text.

    Returns:
        The dense run and each round.

    Raises:
        UsageError: the run is imported or not finished, or ``rewind`` is outside of it.
        RunError: as :func:`resnet_jax.runs.fit.fit`.
    """
    dense_run = RunDirectory.existing(trained.path)
    summary = dense_run.read_summary()
    if not trained.was_trained_here or summary is None:
        raise UsageError(f"{trained.path} is not a finished run: a lottery repeats a training that was done here")
    images = load_images(trained.config)
    config = dataclasses.replace(trained.config, optim=dataclasses.replace(trained.config.optim, keep_zeros=True))
    dense, sparse = (build_parts(each, images, each.train.placed()) for each in (trained.config, config))
    early = _early_state(trained.config, dense_run, dense, images, how.rewind, out / "rewind", tell)
    rounds, network, masks = [Round(0, 1.0, Summary.from_json(summary))], trained, None
    for number in range(1, how.rounds + 1):
        masks = magnitude_masks(network.variables["params"], how.ratio[0], scope=how.scope, alive=masks)
        run = RunDirectory(out / f"round{number}")
        if not run.saved_step():
            _begin(run, config, rewound(early, sparse, masks), masks, trained, images)
        tell(f"Round {number} of {how.rounds}: {density(masks):.1%} of the kernels' weights, from step {early.step:,}.")
        found = fit(config, run.path, console=console)
        network = load_run(run.path)
        _require_zeros(network, masks, run)
        rounds.append(Round(number, density(masks), found.summary))
    return rounds


def rewound(early: TrainState, parts: RunComponents, masks: Any) -> TrainState:
    """Return the state of an early step with pruned weights set to zero, for training that keeps the zeros.

    Weights, moments, averages and statistics that are not pruned equal those of the early step bit for bit.

    Args:
        early: state of the dense run, on the host or on devices.
        parts: components of the run whose optimizer has masks.
        masks: the result of :func:`.magnitude_masks`, in the layout of the parameters.
    """
    like = parts.new_state()
    trained = jax.tree.map(lambda mask: optax.MaskedNode() if mask is None else mask, masks, is_leaf=_is_none)
    params = masked(early.params, masks)
    kept = like.opt_state._replace(inner=early.opt_state)
    ema = early.ema and {**early.ema, "params": masked(early.ema["params"], masks)}
    state = early.replace(params=params, opt_state=with_masks(kept, trained), ema=ema)
    return jax.device_put(state, parts.placement.state(state))


def _early_state(
    config: RunConfig,
    dense_run: RunDirectory,
    parts: RunComponents,
    images: RunData,
    moment: str,
    folder: Path,
    tell: Callable[[str], None],
) -> TrainState:
    """Return the state of the dense run after ``moment``, recomputed from the start, on the host."""
    plan = parts.plan
    step = parse_duration(moment).steps(plan.steps_per_epoch, plan.total_steps)
    if not 0 <= step < plan.total_steps:
        raise UsageError(f"rewind {moment} is step {step:,} of a run of {plan.total_steps:,}")
    with Checkpoints(folder) as checkpoints:
        if checkpoints.steps("last") == [step]:
            return jax.device_get(restore(checkpoints, "last", parts.new_state())[0])
        source = find_source(config, dense_run)
        state = parts.new_state() if source is None else start_state(config, source, parts)
        if step:
            tell(f"The first {step:,} steps of {dense_run.path} are made again: rounds go back to its state then.")
        for call in parts.make_feed().calls(0, step):
            state, _ = call.run(state)
        save(checkpoints, "last", state, Progress())
        return jax.device_get(state)


def _begin(
    run: RunDirectory, config: RunConfig, state: TrainState, masks: Any, trained: TrainedRun, images: RunData
) -> None:
    """Write a run directory from which training resumes at the early step."""
    opened = RunDirectory.open(run.path, config)
    opened.write_data(images.card)
    record = {"pruned_from": str(trained.path), "density": density(masks), "step": int(state.step)}
    write_whole(run.path / RECORD, json.dumps(record, indent=2) + "\n")
    with Checkpoints(opened.checkpoints) as checkpoints:
        save(checkpoints, "last", state, Progress())


def _require_zeros(network: TrainedRun, masks: Any, run: RunDirectory) -> None:
    """Raise an error if a pruned weight is not 0."""
    wrong = jax.tree.map(
        lambda mask, leaf: 0 if mask is None else int(np.sum(np.asarray(leaf)[~np.asarray(mask)] != 0)),
        masks, network.variables["params"], is_leaf=_is_none,
    )  # fmt: skip
    if count := sum(jax.tree.leaves(wrong)):
        raise UsageError(
            f"{run.path} was started with other masks: {count:,} weights that are pruned now were trained there"
        )


def _is_none(node: Any) -> bool:
    return node is None
