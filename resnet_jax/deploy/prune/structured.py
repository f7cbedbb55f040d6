"""Run directories of networks with fewer channels and blocks than another, and their fine-tuning."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from resnet_jax.deploy.prune.blocks import drop_blocks, least_needed
from resnet_jax.deploy.prune.channels import keep_channels, layers_of
from resnet_jax.deploy.prune.choose import choose_channels
from resnet_jax.deploy.prune.data import TrainingImages
from resnet_jax.deploy.prune.how import HowToPrune
from resnet_jax.deploy.prune.scores import Criterion, channel_scores
from resnet_jax.errors import UsageError
from resnet_jax.models.count import Counts, count
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.rows import MODELS
from resnet_jax.models.spec import ModelSpec, model_options
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.finetune_how import starting_from
from resnet_jax.runs.fit import fit
from resnet_jax.runs.fitted import Fit
from resnet_jax.runs.trained import TrainedRun
from resnet_jax.runtime.files import write_whole
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.ema import ema_init
from resnet_jax.training.placement import Placement
from resnet_jax.training.state import TrainState

RECORD = "prune.json"
FINETUNED = "finetuned"
#: Default learning rate for fine-tuning a pruned network, as a fraction of the recipe's.
RATE = 0.1


@dataclasses.dataclass(frozen=True)
class Pruned:
    """A network without some of its channels and blocks.

    Attributes:
        model: the smaller network.
        variables: its variables.
        before: counts of the full network.
        after: counts of the smaller network.
        channels: path, channels before and channels now of each remaining layer in a branch.
        blocks: depth indices of the removed blocks, in the order of removal.
    """

    model: ResNet
    variables: dict[str, Any]
    before: Counts
    after: Counts
    channels: tuple[tuple[str, int, int], ...] = ()
    blocks: tuple[int, ...] = ()

    def lines(self) -> list[str]:
        """Describe what was removed, and the counts before and after."""
        said = [f"channels of {name}: {was} -> {now}" for name, was, now in self.channels if was != now]
        said = [f"blocks removed, by depth from 0: {', '.join(map(str, self.blocks))}", *said] if self.blocks else said
        for what in ("params", "macs"):
            was, now = getattr(self.before, what), getattr(self.after, what)
            name = "parameters" if what == "params" else "multiply-adds an image"
            said.append(f"{name}: {was:,} -> {now:,} ({now / was:.0%})")
        return said


def prune_network(
    trained: TrainedRun, how: HowToPrune, ratio: float, images: TrainingImages | None, criterion: Criterion
) -> Pruned:
    """Return the network of a run without some blocks and channels.

    Args:
        trained: the run.
        how: what to remove.
        ratio: share of the channels to remove.
        images: images to measure on; None if nothing is measured.
        criterion: the criterion for scoring channels.

    Raises:
        UsageError: the network is not prunable, or measurements need images that are not given.
    """
    model, variables, shape = trained.model, trained.variables, trained.card.image_shape
    before, gone = count(model, shape), ()
    if how.drop_blocks:
        if images is None:
            raise UsageError("drop_blocks measures the training loss without each block: it needs training images")
        gone, _ = least_needed(model, variables, how.drop_blocks, images.loss(model))
    gone = gone or how.without_blocks
    if gone:
        model, variables = drop_blocks(model, variables, gone)
    channels: tuple[tuple[str, int, int], ...] = ()
    if ratio > 0:
        batches = images.normalized() if images is not None and criterion == "activation" else ()
        seed = trained.config.seed
        scores = channel_scores(model, variables, criterion, images=batches, seed=seed)
        kept = choose_channels(
            scores, ratio, scope=how.scope, min_channels=how.min_channels, multiple_of=how.multiple_of
        )
        layers = layers_of(model.config)
        channels = tuple((one.name, one.channels, len(some)) for one, some in zip(layers, kept, strict=True))
        model, variables = keep_channels(model, variables, kept)
    if how.recalibrate and images is not None and (gone or channels):
        variables = images.recalibrated(model, variables)
    return Pruned(model, dict(variables), before, count(model, shape), channels, gone)


def config_of(trained: TrainedRun, given: Mapping[str, Any]) -> RunConfig:
    """Return the run's configuration with the given options and the normalization of its images.

    Raises:
        UsageError: an option changes the network, which is fixed by the run.
    """
    if strange := [field for field in given if field.startswith("model.") or field in ("init_from", "recipe")]:
        raise UsageError(f"--{strange[0].replace('_', '-')} cannot be used with prune: the network is that of the run")
    card, values = trained.card, dict(given)
    if card.mean and not trained.config.data.mean and "data.mean" not in given:
        values |= {"data.mean": list(card.mean), "data.std": list(card.std)}
    return with_values(trained.config, values)


def write_pruned(
    out: Path, trained: TrainedRun, config: RunConfig, model: ResNet, variables: dict[str, Any], record: dict[str, Any]
) -> RunDirectory:
    """Write the run directory of a pruned network. If the recipe averages weights, these weights start the average too.

    Args:
        out: a directory that does not exist or is empty.
        trained: the original run.
        config: the configuration of that run, with the given options.
        model: the pruned network.
        variables: its variables.
        record: how it was made, as JSON; kept as prune.json.

    Raises:
        RunError: it cannot be written.
    """
    require_new(out)
    as_it_is: Any = {"init_from": None, "init_head": "exact", "init_stem": "exact", "init_bands": (),
                     "init_inflate": "none"}  # fmt: skip
    config = dataclasses.replace(
        config, recipe=f"pruned-{trained.config.recipe}", model=spec_of(trained.config.model.name, model), **as_it_is
    )
    state = TrainState(
        step=jnp.full((), trained.step, jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state={},
        rng=jax.random.key(0),
        ema=None if config.train.averaging() is None else ema_init({"batch_stats": {}, **variables}),
    )
    run = RunDirectory.open(out, config)
    run.write_data(trained.card)
    with Checkpoints(run.checkpoints) as checkpoints:
        placed = jax.device_put(state, Placement.of().state(state))
        for kind in dict.fromkeys(("last", config.train.select)):
            checkpoints.save(kind, placed, {"pruned_from": str(trained.path)})
    write_whole(run.path / RECORD, json.dumps(record, indent=2) + "\n")
    return run


def spec_of(name: str, model: ResNet) -> ModelSpec:
    """Return a network as a named one with changes."""
    named = MODELS[name].config
    fields = (field for field in model_options() if getattr(model.config, field) != getattr(named, field))
    return ModelSpec(name, **{field: getattr(model.config, field) for field in fields})


def finetune_pruned(run: RunDirectory, length: str, given: Mapping[str, Any], console: Console | None) -> Fit:
    """Fine-tune the network of a pruned run directory with its own recipe, in its subdirectory ``finetuned``. Resumes.

    Raises:
        UsageError, DataError, RunError: as :func:`resnet_jax.runs.fit.fit`.
    """
    config = finetune_config(run, length, given)
    return fit(config, run.path / FINETUNED, console=console)


def finetune_config(run: RunDirectory, length: str, given: Mapping[str, Any]) -> RunConfig:
    """Return the configuration that fine-tunes the network of a pruned run directory."""
    config = run.read_config()
    values: dict[str, Any] = {"train.length": length, "train.limit": None}
    if "optim.learning_rate" not in given:
        values["optim.learning_rate"] = float(f"{RATE * config.optim.learning_rate:.6g}")
    if not any(field.startswith("optim.schedule.") for field in given):
        values["optim.schedule"] = {"kind": "cosine"}
    return starting_from(with_values(config, values), run.path)


def record_of(trained: TrainedRun, how: HowToPrune, ratio: float, pruned: Pruned) -> dict[str, Any]:
    """Return how a network was made, as JSON."""
    rows = [{"layer": name, "before": was, "after": now} for name, was, now in pruned.channels]
    return {
        "pruned_from": str(trained.path), **dataclasses.asdict(how), "ratio": ratio, "channels": rows,
        "blocks": list(pruned.blocks), "before": dataclasses.asdict(pruned.before),
        "after": dataclasses.asdict(pruned.after),
    }  # fmt: skip


def needs_images(how: HowToPrune, model: ResNet) -> bool:
    """Return whether anything has to be measured on training images."""
    measured = how.criterion == "activation" or how.drop_blocks > 0
    return how.criterion is not None and (measured or (how.recalibrate and model.config.norm == "batch"))


def images_for(
    trained: TrainedRun, config: RunConfig, how: HowToPrune, given: Mapping[str, Any], tell: Callable[[str], None]
) -> TrainingImages | None:
    """Load training images if something is measured on them; an imported network without data has none.

    Raises:
        UsageError: images are needed, but the network was imported and no data is named.
    """
    if not needs_images(how, trained.model):
        return None
    if not trained.was_trained_here and "data.source" not in given:
        if how.criterion == "activation" or how.drop_blocks:
            raise UsageError(f"{trained.path} was imported and has no training images: name them with data.source")
        tell("The network was imported and data.source names no images: its batch statistics stay as they are.")
        return None
    return TrainingImages.of(trained, config, how.images)


def require_new(out: Path) -> None:
    """Reject a directory that is in use.

    Raises:
        UsageError: it is in use.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is in use; name a new directory")


def zeros_of(params: Any) -> tuple[int, int]:
    """Return how many numbers of a tree are exactly 0, and how many there are."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    return sum(int((leaf == 0).sum()) for leaf in leaves), sum(leaf.size for leaf in leaves)
