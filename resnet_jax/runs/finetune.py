"""Warm starts: the network of another run directory, trained or imported, as the start of a run."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from resnet_jax.data.classes import Matching, are_numbers, match_classes
from resnet_jax.errors import RunError, UsageError
from resnet_jax.models.digest import params_digest
from resnet_jax.runs.build import RunComponents
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.trained import TrainedRun, load_network
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.ema import ema_init
from resnet_jax.training.state import TrainState
from resnet_jax.weights.transfer import require_fit, transfer


@dataclasses.dataclass(frozen=True)
class Source:
    """What a run starts from.

    Attributes:
        trained: the network of ``config.init_from``, with the variables that directory evaluates (averaged ones if
            there are some).
        digest: digest of these variables, see :func:`resnet_jax.models.digest.params_digest`.
    """

    trained: TrainedRun
    digest: str

    def record(self) -> dict[str, Any]:
        """Return what the run directory records about it."""
        return {"init_from": str(self.trained.path), "step": self.trained.step, "params_digest": self.digest}


def find_source(config: RunConfig, run: RunDirectory) -> Source | None:
    """Load what ``config`` starts from; None for a run from scratch, or a run in progress whose source is gone.

    The source is only needed to start: once there is a checkpoint, the run resumes from that. But if the source still
    exists it must be unchanged, or the run directory would not be what its configuration says.

    Raises:
        UsageError: if there is no run directory at ``config.init_from``.
        RunError: if its weights are not those that this run started from.
    """
    if config.init_from is None:
        return None
    with Checkpoints(run.checkpoints, owner=False) as checkpoints:
        under_way = bool(checkpoints.steps("last"))
    try:
        trained = load_network(config.init_from)
    except (UsageError, RunError):
        if under_way:
            return None
        raise
    source = Source(trained, params_digest(trained.variables["params"], trained.variables.get("batch_stats", {})))
    recorded = run.read_start()
    if recorded is not None and recorded["params_digest"] != source.digest:
        raise RunError(
            f"the weights in {config.init_from} are not those that {run.path} began with (see {run.start.name}); use "
            "another run_dir"
        )
    return source


def how_to_fit(config: RunConfig) -> dict[str, Any]:
    """Return the arguments of :func:`resnet_jax.weights.transfer.transfer` in a configuration, except the head's."""
    return {"stem": config.init_stem, "bands": config.init_bands, "inflate": config.init_inflate}


def require_transfer(config: RunConfig, source: Source, parts: RunComponents, card: DatasetInfo) -> None:
    """Reject a source that does not fit the network or the data, before anything is written.

    Raises:
        UsageError: if it does not fit; the message names both sides, and the option to use.
    """
    old, new = source.trained.card.class_names, card.class_names
    named = source.trained.was_trained_here or not are_numbers(old)  # else imported without names for its classes
    if config.init_head == "exact" and named and len(old) == len(new) and same_order(new, old) is None:
        index = next(index for index, names in enumerate(zip(old, new, strict=True)) if names[0] != names[1])
        raise UsageError(
            f"{config.init_from} was trained on other classes: class {index} was {old[index]!r} and is {new[index]!r}; "
            "init_head new starts a new classifier"
        )
    try:
        require_fit(source.trained.variables, parts.model, head=config.init_head, **how_to_fit(config))
    except UsageError as error:
        raise UsageError(
            f"{config.init_from} ({source.trained.config.model.name}) cannot start {config.model.name}: {error}\n"
            "init_head new, init_stem mean and init_inflate mean handle another number of classes, of channels and of "
            "dimensions"
        ) from error


def same_order(new: tuple[str, ...], old: tuple[str, ...]) -> Matching | None:
    """Return how classes were matched with those of a network; None unless each is the output at its own position."""
    try:
        matching = match_classes(new, old)
    except UsageError:
        return None
    return matching if matching.outputs.tolist() == list(range(len(old))) else None


def start_state(config: RunConfig, source: Source, parts: RunComponents) -> TrainState:
    """Return the first state of the run: the source's weights and averages, a new optimizer."""
    state = parts.new_state()
    variables = transfer(
        source.trained.variables, parts.model, state.variables, head=config.init_head, **how_to_fit(config)
    )

    def start(state: TrainState, variables: dict[str, Any]) -> TrainState:
        return state.replace(
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=parts.tx.init(variables["params"]),
            ema=None if state.ema is None else ema_init(variables),
        )

    return jax.jit(start, out_shardings=parts.placement.state(state))(state, variables)


def describe(config: RunConfig, source: Source, parts: RunComponents, card: DatasetInfo) -> tuple[str, ...]:
    """Return lines about the start of a run: where the weights come from, and which classes a kept classifier has.

    The choices in which the networks differ are listed, since not all of them change a shape.
    """
    old, new = (dataclasses.asdict(model.config) for model in (source.trained.model, parts.model))
    changed = ", ".join(f"{name} {old[name]} -> {new[name]}" for name in new if old[name] != new[name])
    line = f"{source.trained.path} after step {source.trained.step:,}, classifier {config.init_head}"
    kept = same_order(card.class_names, source.trained.card.class_names) if config.init_head == "exact" else None
    return (f"{line}; changed: {changed}" if changed else line, *(kept.said if kept is not None else ()))
