"""Foreign weight files as run directories, and run directories as foreign weight files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.config import ModelConfig, RunConfig
from resnet_jax.errors import DataError, RunError, UsageError
from resnet_jax.models.zoo import MODELS, create_model
from resnet_jax.rundir import DataCard, RunDirectory
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.mesh import make_mesh, replicated
from resnet_jax.training.state import TrainState
from resnet_jax.weights import from_variables, load_state_dict, save_safetensors, to_variables


def import_weights(
    file: Path, model: ModelConfig, out: Path, *, mean: Sequence[float] = (), std: Sequence[float] = ()
) -> RunDirectory:
    """Write a run directory that holds the weights of ``file``, complete or not at all.

    Args:
        file: a PyTorch checkpoint or a safetensors file.
        model: the network they belong to.
        out: the directory; it must not exist or be empty.
        mean: normalization of the images, if known, per channel of x / 255.
        std: the same.

    Raises:
        UsageError: ``out`` is in use, or mean and std do not fit the network's channels.
        DataError: the file is not readable or does not fit the network; every misfit is listed.
        RunError: ``out`` cannot be written.
    """
    _require_new(out)
    network = create_model(model.name, **model.choices())
    channels = network.config.in_channels
    if len(mean) != len(std) or len(mean) not in (0, channels):
        raise UsageError(
            f"need {channels} means and {channels} deviations, or none; got {tuple(mean)} and {tuple(std)}"
        )
    try:
        variables = to_variables(load_state_dict(file), network)
    except DataError as error:
        raise DataError(f"{file}: {error}" if str(file) not in str(error) else str(error)) from error
    size = MODELS[model.name].image_size
    card = DataCard(
        class_names=tuple(str(index) for index in range(network.config.num_classes)),
        image_shape=(size, size, channels),
        mean=tuple(mean),
        std=tuple(std),
        examples={},
    )
    config = RunConfig(recipe=f"imported-{file.stem}", model=model)
    return _write(out, config, card, variables, step=0, origin={"imported_from": file.name})


def fold_run(run_dir: Path, out: Path) -> RunDirectory:
    """Write a run directory with the network of another, its batch norms folded into convolutions; for inference.

    Raises:
        UsageError: ``run_dir`` is no run directory, its network has no batch norm, or ``out`` is in use.
        RunError: ``out`` cannot be written.
    """
    from resnet_jax.trained import load_run
    from resnet_jax.weights.fold import fold_batch_norm

    _require_new(out)
    trained = load_run(run_dir)
    folded, variables = fold_batch_norm(trained.model, trained.variables)
    named = MODELS[trained.config.model.name].config
    changed = {
        name: getattr(folded.config, name)
        for name in (field.name for field in dataclasses.fields(ModelConfig))
        if name != "name" and getattr(folded.config, name) != getattr(named, name)
    }
    config = dataclasses.replace(
        trained.config,
        recipe=f"folded-{trained.config.recipe}",
        model=ModelConfig(trained.config.model.name, **changed),
        train=dataclasses.replace(trained.config.train, ema_decay=None, select="last", early_stopping=None),
        init_from=None,
        init_head="exact",
        init_stem="exact",
    )
    return _write(out, config, trained.card, variables, step=trained.step, origin={"folded_from": str(run_dir)})


def _require_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is in use; name a new directory")


def _write(
    out: Path, config: RunConfig, card: DataCard, variables: dict[str, Any], *, step: int, origin: dict[str, str]
) -> RunDirectory:
    """Write a run directory that holds ``variables`` and was not trained here."""
    state = TrainState(
        step=jnp.full((), step, jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state={},
        rng=jax.random.key(0),
    )
    run = RunDirectory.open(out, config)
    run.write_data(card)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save("last", jax.device_put(state, replicated(make_mesh())), origin)
    return run


def export_weights(run_dir: Path, out: Path, *, format: str) -> int:
    """Write the network of a run as a safetensors file with another library's names; return the number of tensors.

    Raises:
        UsageError: not a run directory, or an unknown format.
        RunError: the file cannot be written.
    """
    from resnet_jax.trained import load_run

    trained = load_run(run_dir)
    state_dict = from_variables(trained.variables, trained.model, format)
    try:
        save_safetensors(state_dict, out, {"model": trained.config.model.name, "step": str(trained.step)})
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error
    return len(state_dict)
