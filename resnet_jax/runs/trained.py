"""A network with its weights and what it knows about its images, and the rules that follow from that.

Whatever images it is given, by whichever command: :attr:`TrainedRun.geometry` resizes them to its own size, its card
normalizes them, and :func:`class_names_of` names its outputs.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from resnet_jax.data.classes import output_names
from resnet_jax.data.stats import check_normalization
from resnet_jax.data.transform import Geometry
from resnet_jax.errors import RunError, UsageError, unknown
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.towers import TwoTowers
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import geometry_of
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.imports import missing_told
from resnet_jax.runs.legacy_augment import with_old_fields
from resnet_jax.runs.network import build_network, build_task
from resnet_jax.runtime.limits import too_much_unpacked
from resnet_jax.tasks.binary import Binary
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.task import Task
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.placement import Placement

MOST_BLOCKS = 20_000
"""The maximum number of blocks of a network that is loaded; ResNet-1202 has 600."""


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A network with its weights and what it knows about its data.

    Attributes:
        config: configuration of the run.
        card: its data; ``image_shape`` is what the network sees.
        model: the network; for examples with two inputs, a :class:`~resnet_jax.models.TwoTowers`.
        variables: its weights and statistics.
        step: number of updates done.
        path: path of the run directory.
        output_names: names of the outputs given by the user; empty: those of the card.
    """

    config: RunConfig
    card: DatasetInfo
    model: ResNet
    variables: dict[str, Any]
    step: int
    path: Path
    output_names: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """The meaning of its outputs."""
        return build_task(self.config, self.card)

    @property
    def geometry(self) -> Geometry:
        """How an image of any size is converted to the network's: the one rule for evaluation, prediction and depth.

        A network for images that are not square, or for signals or volumes, takes inputs of exactly its size, unless
        the run had ``data.resize``.
        """
        *sides, _ = self.card.image_shape
        if self.config.data.resize is not None:
            return geometry_of(dataclasses.replace(self.config.data, resize=(sides[0], sides[1])))
        size = sides[0] if len(sides) == 2 and sides[0] == sides[1] else None
        return geometry_of(dataclasses.replace(self.config.data, image_size=size))

    @property
    def was_trained_here(self) -> bool:
        """Whether the run has images of its own; an imported network has none."""
        return bool(self.card.examples)


def load_run(path: str | Path, checkpoint: str | None = None) -> TrainedRun:
    """Load the network of a run directory.

    Args:
        path: the run directory.
        checkpoint: ``last`` or ``best``; default: the one the run's configuration selects.

    Raises:
        UsageError: if it is not a run directory.
        RunError: if it has no such checkpoint.
    """
    run = RunDirectory.existing(Path(path))
    config, card = run.read_config(), run.read_data()
    checkpoint = checkpoint or config.train.select
    if checkpoint not in ("last", "best"):
        raise unknown("checkpoint", checkpoint, ("last", "best"))
    with missing_told(config.imports, where=str(run.path)):
        model: Any = build_network(config, card)
    if model.config.num_blocks > MOST_BLOCKS:
        raise RunError(f"{run.path}: a network of {model.config.num_blocks:,} blocks; at most {MOST_BLOCKS:,} are read")
    variables = Placement.of().abstract(abstract_variables(model, card.image_shape))
    _check_size(run, checkpoint, variables)
    averaged = config.train.averaging() is not None
    with Checkpoints(run.checkpoints, owner=False) as checkpoints:
        loaded, step = checkpoints.restore_part(checkpoint, {"ema": variables} if averaged else variables)
    return TrainedRun(config, card, model, loaded["ema"] if averaged else loaded, step, run.path)


def load_network(path: str | Path, checkpoint: str | None = None) -> TrainedRun:
    """Load the network of a run directory if it takes one input; see :func:`load_run`.

    Raises:
        UsageError: if it is not a run directory, or the network has two towers.
        RunError: if it has no such checkpoint.
    """
    trained = load_run(path, checkpoint)
    require_one_input(trained)
    return trained


def require_one_input(trained: TrainedRun) -> None:
    """Reject a network with two towers.

    Raises:
        UsageError: if it has; the message says what can be done with it.
    """
    if isinstance(trained.model, TwoTowers):
        raise UsageError(
            f"{trained.path} is a network of two towers, and this takes one of one input. `eval` takes it; in Python "
            "trained.model.left is a network by itself, and its variables are left/... of trained.variables"
        )


def _check_size(run: RunDirectory, checkpoint: str, variables: Any) -> None:
    """Reject a network far larger than the files that should contain its weights, since missing parts would be zeros.

    Raises:
        RunError: if it is; the message says by how much, and how to allow it.
    """
    needed = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables))
    there = 0
    for folder, _, files in os.walk(run.checkpoints / checkpoint):
        there += sum(os.lstat(os.path.join(folder, name)).st_size for name in files)
    if there and (reason := too_much_unpacked(needed, there)) is not None:
        raise RunError(f"{run.path}: its checkpoint {checkpoint} is too small for its network: {reason}")


def with_normalization(trained: TrainedRun, mean: Sequence[float], std: Sequence[float]) -> TrainedRun:
    """Return the same network with another normalization of its images.

    Raises:
        UsageError: unless there is one mean in [0, 1] and one positive deviation of at most 1 per channel.
    """
    channels = trained.card.image_shape[-1]
    if not mean or not std:
        raise UsageError(
            f"need {channels} means and {channels} positive deviations, got {tuple(mean)} and {tuple(std)}"
        )
    check_normalization(mean, std, channels=channels, dtype=trained.card.image_dtype)
    return dataclasses.replace(trained, card=dataclasses.replace(trained.card, mean=tuple(mean), std=tuple(std)))


def with_geometry(trained: TrainedRun, image_size: int | None, crop: str | None) -> TrainedRun:
    """Return the same network for another image size; any size works, because its last layer is a mean over positions.

    Args:
        trained: as returned by :func:`load_run`.
        image_size: side in pixels; None: the network's own.
        crop: ``none``, or ``random_resized`` for the central 0.875 of the image, as after random resized training;
            None: the run's own.

    Raises:
        UsageError: for a size below 1, or an unknown crop.
    """
    card, data = trained.card, trained.config.data
    if image_size is not None:
        if image_size < 1:
            raise UsageError(f"the side of an image must be 1 pixel or more, got {image_size}")
        shape = (*(image_size,) * trained.model.config.spatial_dims, card.image_shape[-1])
        if data.eval_side is not None:  # the same margin
            side = max(image_size, round(data.eval_side * image_size / card.image_shape[0]))
            data = dataclasses.replace(data, image_size=image_size, eval_side=side)
        card = dataclasses.replace(card, image_shape=shape)  # pyright: ignore[reportArgumentType]
    if crop is not None:
        augment = with_old_fields(data.augment, {"crop": crop})
        data = dataclasses.replace(data, augment=augment, eval_side=None)
    changed = dataclasses.replace(trained, card=card, config=dataclasses.replace(trained.config, data=data))
    if crop is not None:
        changed.geometry  # refuses what cannot be  # noqa: B018
    return changed


def with_class_names(trained: TrainedRun, names: Sequence[str]) -> TrainedRun:
    """Return the same network with other names for its outputs.

    Args:
        trained: as returned by :func:`load_run`.
        names: one per output, in order (:func:`resnet_jax.data.classes.read_class_names`); two for a single output.
    """
    return dataclasses.replace(trained, output_names=tuple(names))


def with_moved_data(trained: TrainedRun, place: str) -> TrainedRun:
    """Return the same run with its own images now at ``place``; they are compared with data.json when read."""
    data = dataclasses.replace(trained.config.data, moved_to=place)
    return dataclasses.replace(trained, config=dataclasses.replace(trained.config, data=data))


def require_images(trained: TrainedRun) -> None:
    """Reject a network that does not take image files, or whose normalization is unknown.

    Raises:
        UsageError: if so; the message says what to do.
    """
    require_one_input(trained)
    card, config = trained.card, trained.model.config
    if trained.config.data.pixels == "stored" and config.spatial_dims == 2:
        require_normalization(trained)
        return
    if config.spatial_dims != 2 or card.image_shape[-1] not in (1, 3):
        raise UsageError(
            f"{trained.path} takes inputs of {config.spatial_dims} dimensions and {card.image_shape[-1]} channels; "
            "image files have 2, and 1 or 3. `eval` takes arrays (npz:PATH), and in Python model.apply"
        )
    if card.image_dtype != "uint8":
        raise UsageError(
            f"{trained.path} was trained on {card.image_dtype}, and image files are read as uint8, of which its "
            "normalization is not. `eval` takes the same kind of data (data.source), and in Python model.apply"
        )
    require_normalization(trained)


def require_normalization(trained: TrainedRun) -> None:
    """Reject a network whose normalization is unknown.

    Raises:
        UsageError: if so; the message says what to do.
    """
    card = trained.card
    if not card.mean:
        raise UsageError(f"{trained.path} does not say how its images are normalized: give data.mean and data.std")
    try:
        check_normalization(card.mean, card.std, channels=card.image_shape[-1], name="", dtype=card.image_dtype)
    except UsageError as error:
        raise UsageError(
            f"the normalization in {trained.path} is not one ({error}): give data.mean and data.std"
        ) from error


def class_names_of(trained: TrainedRun) -> tuple[str, ...]:
    """Return the possible answers of a network, in order: its classes, labels or targets; no and yes for a binary one.

    Raises:
        UsageError: if it has no classifier, or a single output whose meaning is unknown.
    """
    outputs = trained.model.config.num_classes
    names = trained.output_names or trained.card.class_names
    if outputs == 0:
        raise UsageError(
            f"{trained.path} has no classifier (num_classes 0): it returns features and no classes. Start a classifier "
            "with init_from and init_head new, or take the features in Python: "
            "trained.model.apply(trained.variables, images, train=False)"
        )
    task = trained.task
    if isinstance(task, Binary):
        if len(names) != 2 and not (len(names) == 1 and trained.card.label_kind == "multi-label"):
            raise UsageError(
                f"{trained.path} has one output, a yes or no (probability sigmoid(x) of yes), and nobody said of what: "
                "give the two names with class_names=FILE, one a line, the no first"
            )
        return task.answer_names(names)
    named = task.answer_names(names)
    return output_names(named, outputs) if isinstance(task, Classification) else named
