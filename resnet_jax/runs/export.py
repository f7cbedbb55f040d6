"""Export of run directories as foreign weight files."""

from __future__ import annotations

from pathlib import Path

from resnet_jax.errors import RunError
from resnet_jax.runs.trained import TrainedRun, load_network
from resnet_jax.runtime.paths import user_path
from resnet_jax.weights import from_variables, save_safetensors
from resnet_jax.weights.notes import Notes

#: Choices of a network that do not affect its function; an exported file does not include them.
_HOW_COMPUTED = ("execution", "remat", "norm_scope", "ghost_size", "norm_group_devices")


def export_weights(run_dir: Path, out: Path, *, format: str) -> int:
    """Write a run's network as a safetensors file with another library's names; return the number of tensors.

    The file also stores, as text that other libraries ignore, what import needs to restore the same network: its
    choices, the names of its classes, and the size and normalization of its images (:mod:`resnet_jax.weights.notes`).

    Raises:
        UsageError: if it is not a run directory, or for an unknown format.
        RunError: if the file cannot be written.
    """
    out = user_path(out)
    trained = load_network(run_dir)
    state_dict = from_variables(trained.variables, trained.model, format)
    metadata = {"model": trained.config.model.name, "step": str(trained.step), **notes_of(trained).as_metadata()}
    try:
        save_safetensors(state_dict, out, metadata)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error
    return len(state_dict)


def notes_of(trained: TrainedRun) -> Notes:
    """Return what an exported file says about the network of a run."""
    config, card = trained.config, trained.card
    choices = {name: value for name, value in config.model.changes.items() if name not in _HOW_COMPUTED}
    built = trained.model.config
    size = config.data.image_size
    return Notes(
        model=config.model.name,
        choices={**choices, "num_classes": built.num_classes, "in_channels": built.in_channels},
        class_names=card.class_names,
        image_shape=tuple(card.image_shape) if size is None else (size, size, card.image_shape[-1]),
        crop=config.data.crop,
        mean=tuple(card.mean),
        std=tuple(card.std),
        loss=config.task.loss or "cross_entropy",
        task=trained.task.kind,
        label_kind=card.label_kind,
        threshold=config.task.threshold,
        target_mean=card.target_mean if config.task.standardize else (),
        target_std=card.target_std if config.task.standardize else (),
    )
