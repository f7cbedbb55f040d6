"""Import of foreign weight files as run directories."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.stats import check_normalization
from resnet_jax.data.transform import Interpolation
from resnet_jax.errors import DataError, UsageError, unknown
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.rows import MODELS
from resnet_jax.models.spec import ModelSpec, model_options
from resnet_jax.runs.build import build_task
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.legacy_augment import with_old_fields
from resnet_jax.runtime.paths import user_path
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.tasks.registry import list_tasks
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.early_stopping import EarlyStopping
from resnet_jax.training.options import Averaging
from resnet_jax.training.placement import Placement
from resnet_jax.training.state import TrainState
from resnet_jax.weights import to_variables
from resnet_jax.weights.files import WeightFile, read_weights
from resnet_jax.weights.known import Known, known_of
from resnet_jax.weights.names import best_fit, flat_shapes
from resnet_jax.weights.notes import Notes, read_notes

CROPS = ("none", "random_resized")


@dataclasses.dataclass(frozen=True)
class Imported:
    """A run directory made from a foreign file, and the origin of its parts.

    Attributes:
        run: the directory.
        file: what was read.
        format: the naming convention of the tensors.
        prefix: the prefix removed from all names.
        card: names of the outputs, and size and normalization of the images.
        crop: the geometry of the images.
        lines: lines for the user, by subject: ``tensors``, ``network``, ``images``, ``normalization``, ``classes``,
            ``task``.
    """

    run: RunDirectory
    file: WeightFile
    format: str
    prefix: str
    card: DatasetInfo
    crop: str
    lines: dict[str, str]

    @property
    def path(self) -> Path:
        """The directory."""
        return self.run.path


def import_weights(
    file: Path,
    model: ModelSpec,
    out: Path,
    *,
    key: str | None = None,
    image_size: int | None = None,
    crop: str | None = None,
    class_names: Sequence[str] | Path | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    eval_side: int | None = None,
    interpolation: Interpolation = "area",
) -> Imported:
    """Write a run directory with the weights of ``file``, completely or not at all.

    What is not given is taken from the file, if ``weights export`` wrote it, or otherwise from what is known about
    networks with such names (:mod:`resnet_jax.weights.known`). What neither knows stays undefined, and is reported.

    Args:
        file: a PyTorch checkpoint or a safetensors file.
        model: the network the weights belong to; an empty name uses the network stored in an exported file.
        out: the directory; it must not exist or must be empty.
        key: which mapping of the file, or which part of its names; see
            :func:`resnet_jax.weights.files.load_state_dict`.
        image_size: side of the images in pixels.
        crop: ``random_resized`` to evaluate the central 0.875 of an image, ``none`` for the whole image.
        class_names: names of the outputs in order, or a file with them, one per line or as a JSON list.
        mean: mean of the images per channel of x / 255.
        std: standard deviation of the images per channel of x / 255.
        eval_side: pixels that evaluation resizes the shorter side to, as ``data.eval_side``.
        interpolation: how evaluation resizes images, as ``data.interpolation``.

    Raises:
        UsageError: if ``out`` is in use, a value is out of range, or the number of values does not fit the network.
        DataError: if the file is unreadable or does not fit the network; all mismatches are listed.
        RunError: if ``out`` cannot be written.
    """
    file, out = user_path(file), user_path(out)
    _require_new(out)
    read = read_weights(file, key)
    notes = read_notes(read.metadata, file)
    task = _task_of(notes, file)
    model, about_network = _with_notes(model, notes, file)
    network = ResNet(model.config())
    channels, outputs = network.config.in_channels, network.config.num_classes
    if network.config.spatial_dims != 2:
        raise UsageError(
            f"a run directory is of a network for images: model.spatial_dims {network.config.spatial_dims} is not 2; "
            "in Python resnet_jax.weights.to_variables reads weights of other dimensions"
        )
    check_normalization(mean, std, channels=channels, name="")
    if image_size is not None and image_size < 1:
        raise UsageError(f"image_size={image_size}: it must be 1 pixel or more")
    if crop not in (None, *CROPS):
        raise unknown("crop", crop, CROPS)
    names = None if class_names is None else _given_names(class_names, outputs)
    try:
        variables = to_variables(read.tensors, network)
    except DataError as error:
        said = str(error).replace(": key=", f": key={read.key}.") if read.key else str(error)
        raise DataError(f"{file}: {said}") from error

    fit = best_fit(read.tensors, network.config, flat_shapes(network))
    known = known_of(fit.format, model.name, network.config)
    shape, crop, about_size = _geometry(known, notes, image_size, crop, network.config.spatial_dims, channels)
    if eval_side is not None:
        about_size = f"{shape[0]} pixels, cut from the centre of {eval_side}, resized {interpolation} (given)"
    mean, std, about_normalization = _normalization(known, notes, mean, std)
    names, about_names = _names(known, notes, names, outputs)
    card = DatasetInfo(class_names=names, image_shape=shape, mean=mean, std=std, examples={})
    if notes is not None:
        card = dataclasses.replace(
            card, label_kind=notes.label_kind, target_mean=notes.target_mean, target_std=notes.target_std
        )
    config = RunConfig(
        recipe=f"imported-{file.stem}",
        model=model,
        data=DataConfig(
            image_size=shape[0] if len(set(shape[:-1])) == 1 else None,
            eval_side=eval_side,
            interpolation=interpolation,
            augment=with_old_fields((), {"crop": crop}),
        ),
        task=task,
    )
    build_task(config, card)  # refuses what does not go together
    run = write_network(out, config, card, variables, step=0, origin={"imported_from": file.name})
    lines = {
        "tensors": _about_tensors(read, fit.format, fit.prefix, np.dtype(network.config.param_dtype)),
        "network": about_network,
        "images": about_size,
        "normalization": about_normalization,
        "classes": about_names,
        "task": "" if notes is None or notes.task == "classification" else f"{notes.task} (the file)",
    }
    return Imported(run, read, fit.format, read.prefix + fit.prefix, card, crop, {k: v for k, v in lines.items() if v})


def _task_of(notes: Notes | None, file: Path) -> TaskConfig:
    """Return the meaning of the outputs, as stored in an exported file.

    Raises:
        UsageError: for a task that is not registered here.
    """
    if notes is None:
        return TaskConfig()
    if notes.task not in list_tasks():
        raise UsageError(
            f"the outputs of {file} are those of task {notes.task}, which was registered in Python: import what "
            "registers it first, with --imports"
        )
    return TaskConfig(
        kind=None if notes.task == "classification" else notes.task,
        loss=None if notes.loss == "cross_entropy" else notes.loss,
        threshold=notes.threshold,
    )


def _with_notes(model: ModelSpec, notes: Notes | None, file: Path) -> tuple[ModelSpec, str]:
    """Return the network with the choices from an exported file added to the given ones, and a description."""
    if notes is None:
        if not model.name:
            raise UsageError("name the network: model=NAME, one that list_models() names")
        return model, ""
    if model.name and model.name != notes.model:
        return model, f"{model.name}; the file says that it was exported from a {notes.model}, its choices are left out"
    given = model.changes
    strange = sorted(set(notes.choices) - {*model_options()})
    if notes.model not in MODELS or strange:
        raise DataError(f"{file} was exported by another version: unknown here is {', '.join(strange) or notes.model}")
    taken = {name: value for name, value in notes.choices.items() if name not in given}
    plain = {
        "num_classes": MODELS[notes.model].config.num_classes,
        "in_channels": MODELS[notes.model].config.in_channels,
    }
    shown = ", ".join(f"{name} {value}" for name, value in taken.items() if plain.get(name, object()) != value)
    other = ", ".join(
        f"{name} {value} (the file: {notes.choices[name]})"
        for name, value in given.items()
        if notes.choices.get(name, value) != value
    )
    about = "; ".join(
        part for part in (shown and f"with {shown}, as the file says", other and f"given: {other}") if part
    )
    return model.replace(notes.model, **taken), f"{notes.model} {about}".strip()


def _given_names(class_names: Sequence[str] | Path, outputs: int) -> tuple[str, ...]:
    """Return the names given by the user, one per output and all different."""
    from resnet_jax.data.classes import read_class_names

    if isinstance(class_names, Path):
        names, where = read_class_names(class_names, outputs), str(class_names)
    else:
        names, where = tuple(class_names), "class_names"
        if len(names) != (2 if outputs == 1 else outputs):
            raise UsageError(f"{where} has {len(names)} names, the network {outputs} outputs")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        places = {name: [str(i) for i, other in enumerate(names) if other == name] for name in repeated[:8]}
        shown = "; ".join(f"{name!r} (outputs {', '.join(at)})" for name, at in places.items())
        raise UsageError(
            f"{where} has the same name for several outputs: {shown}; classes are told apart by their names"
        )
    return names


def _geometry(
    known: Known, notes: Notes | None, image_size: int | None, crop: str | None, dims: int, channels: int
) -> tuple[Any, str, str]:
    """Return the shape of the images, their crop, and a description."""
    if notes and len(notes.image_shape) == dims + 1:
        spatial, found_crop, source = notes.image_shape[:-1], notes.crop, "the file"
    else:
        spatial, found_crop, source = (known.image_size,) * dims, known.crop, known.size_source
    if image_size is not None:
        spatial, source = (image_size,) * dims, "given"
    crop = found_crop if crop is None else crop
    if crop == "random_resized" and len(set(spatial)) > 1:
        raise UsageError(f"the images are {spatial}, not square: crop=random_resized needs one image_size=PIXELS")
    side = f"{spatial[0]} pixels" if len(set(spatial)) == 1 else "x".join(map(str, spatial)) + " pixels"
    if crop == "random_resized":
        side += f", cut from the centre of {round(spatial[0] / 0.875)}"
    return (*spatial, channels), crop, f"{side} ({source})"


def _normalization(
    known: Known, notes: Notes | None, mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Return mean and standard deviation of the images, and a description."""
    if mean:
        found, source = (tuple(mean), tuple(std)), "given"
    elif notes and notes.mean:
        found, source = (notes.mean, notes.std), "the file"
    elif known.normalization is not None:
        found, source = known.normalization, f"as in {known.source}"
    else:
        said = "not known: give mean and std here or to eval and predict, per channel of x / 255"
        return (), (), f"{said}; {known.caution}" if known.caution else said
    check_normalization(*found, name="")
    mean, std = found
    caution = f"; {known.caution}" if known.caution and source.startswith("as in") else ""
    return (
        mean,
        std,
        f"mean {' '.join(f'{m:g}' for m in mean)}, std {' '.join(f'{s:g}' for s in std)} ({source}){caution}",
    )


def _names(
    known: Known, notes: Notes | None, given: tuple[str, ...] | None, outputs: int
) -> tuple[tuple[str, ...], str]:
    """Return the names of the outputs, and a description."""
    if outputs == 0:
        return (), "none: the network has no classifier"
    if given is not None:
        names, source = given, "given"
    elif notes and 0 < len(notes.class_names) <= max(outputs, 2):  # outputs that no class had stay without a name
        names, source = notes.class_names, "the file"
    elif known.class_names is not None:
        names, source = known.class_names, f"as in {known.source}"
    else:
        numbers = tuple(str(index) for index in range(outputs))
        return numbers, f"not known: {outputs} outputs, called by their numbers; class_names=FILE names them"
    shown = ", ".join(names[:10]) + (f", ... {len(names)} in all" if len(names) > 10 else "")
    return names, f"{shown} ({source})"


def _about_tensors(read: WeightFile, format: str, prefix: str, dtype: np.dtype) -> str:
    """Describe where in the file the tensors were, how their names were changed, and their dtypes."""
    parts = [f"{len(read.tensors)} tensors"]
    parts += [f"under {read.key!r}"] if read.key else []
    parts += [f"with the names of {format}"]
    prefix = read.prefix + prefix
    said = " ".join(parts) + (f"; the prefix {prefix!r} taken off every name" if prefix else "")
    if read.left_aside:
        shown = ", ".join(read.left_aside[:4]) + (", ..." if len(read.left_aside) > 4 else "")
        said += f"; {len(read.left_aside)} others left aside ({shown})"
    types = Counter(array.dtype.name for array in read.tensors.values() if array.dtype != dtype)
    floats = [f"{count} of {name}" for name, count in types.items()]
    return said + (f"; {', '.join(floats)}, converted to {dtype.name}" if floats else "")


def fold_run(run_dir: Path, out: Path) -> RunDirectory:
    """Write a run directory with the network of another, with batch norm folded into the convolutions, for inference.

    Raises:
        UsageError: if ``run_dir`` is not a run directory, its network has no batch norm, or ``out`` is in use.
        RunError: if ``out`` cannot be written.
    """
    from resnet_jax.runs.trained import load_network
    from resnet_jax.weights.fold import fold_batch_norm

    out = user_path(out)
    _require_new(out)
    trained = load_network(run_dir)
    folded, variables = fold_batch_norm(trained.model, trained.variables)
    named = MODELS[trained.config.model.name].config
    changed = {
        name: getattr(folded.config, name)
        for name in model_options()
        if getattr(folded.config, name) != getattr(named, name)
    }
    config = dataclasses.replace(
        trained.config,
        recipe=f"folded-{trained.config.recipe}",
        model=ModelSpec(trained.config.model.name, **changed),
        train=dataclasses.replace(trained.config.train, ema=Averaging(), select="last", early_stopping=EarlyStopping()),
        init_from=None,
        init_head="exact",
        init_stem="exact",
        init_bands=(),
        init_inflate="none",
    )
    return write_network(out, config, trained.card, variables, step=trained.step, origin={"folded_from": str(run_dir)})


def _require_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is in use; name a new directory")


def write_network(
    out: Path, config: RunConfig, card: DatasetInfo, variables: dict[str, Any], *, step: int, origin: dict[str, str]
) -> RunDirectory:
    """Write a run directory with ``variables`` that were not trained here.

    Args:
        out: a directory that does not exist or is empty.
        config: configuration with the network.
        card: its images and classes, without examples.
        variables: its parameters and statistics.
        step: the number of updates to record.
        origin: where they come from, stored with the checkpoint.

    Raises:
        RunError: if ``out`` cannot be written.
    """
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
        checkpoints.save("last", jax.device_put(state, Placement.of().state(state)), origin)
    return run
