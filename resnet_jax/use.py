"""Using a trained run: load it, evaluate a split, name what is in an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax.assemble import (
    build_evaluation,
    build_model,
    eval_preprocess,
    evaluation_feed,
    geometry_of,
    load_splits,
)
from resnet_jax.config import RunConfig
from resnet_jax.data.decode import decode_image
from resnet_jax.data.memory import materialize
from resnet_jax.data.records import Subset
from resnet_jax.data.rng import SHUFFLE, permutation
from resnet_jax.data.source import load_dataset
from resnet_jax.data.split import Splits
from resnet_jax.data.transform import Geometry
from resnet_jax.errors import DataError, RunError, UsageError, unknown
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.resnet import ResNet
from resnet_jax.rundir import DataCard, RunDirectory
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.evaluate import Evaluation
from resnet_jax.training.mesh import make_mesh, replicated
from resnet_jax.training.reestimate import reestimate
from resnet_jax.training.step import make_predict_step

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A network with its weights and what it knows about its data."""

    config: RunConfig
    card: DataCard
    model: ResNet
    variables: dict[str, Any]
    step: int
    path: Path


def load_run(path: str | Path, checkpoint: str | None = None) -> TrainedRun:
    """Load the network of a run directory.

    Args:
        path: the run directory.
        checkpoint: ``last`` or ``best``; default: the one the run's configuration selects.

    Raises:
        UsageError: not a run directory.
        RunError: it has no such checkpoint.
    """
    run = RunDirectory.existing(Path(path))
    config, card = run.read_config(), run.read_data()
    checkpoint = checkpoint or config.train.select
    if checkpoint not in ("last", "best"):
        raise unknown("checkpoint", checkpoint, ("last", "best"))
    model = build_model(config, card)
    sharding = replicated(make_mesh())
    variables = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_variables(model, card.image_shape),
    )
    averaged = config.train.ema_decay is not None
    with Checkpoints(run.checkpoints, owner=False) as checkpoints:
        loaded, step = checkpoints.restore_part(checkpoint, {"ema": variables} if averaged else variables)
    return TrainedRun(config, card, model, loaded["ema"] if averaged else loaded, step, run.path)


def evaluate_run(
    trained: TrainedRun, split: str = "test", *, source: str | None = None, logits: bool = False
) -> Evaluation:
    """Evaluate a network on a split of its own data, with its own division of it, or on another source.

    Args:
        trained: as :func:`load_run` gives it.
        split: ``train``, ``val`` or ``test``.
        source: another data source, of which the source's own ``split`` is evaluated, or everything if it has one only.
        logits: also return the logits.

    Raises:
        UsageError: no such split, no normalization, or a source with more classes than the network.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if not trained.card.mean:
        raise UsageError(f"{trained.path} does not say how its images are normalized: give --data.mean and --data.std")
    if source is None:
        splits, class_names = load_splits(trained.config)
        records = getattr(splits, split)
        _require_same_data(trained, splits, class_names)
    else:
        dataset = load_dataset(source, channels=trained.card.image_shape[-1])
        records, class_names = dataset.splits.get("all", dataset.splits.get(split)), dataset.class_names
    if records is None:
        raise UsageError(f"{source or trained.config.data.source} has no {split} split")
    if len(class_names) > trained.model.config.num_classes:
        raise UsageError(f"{source} has {len(class_names)} classes, the network {trained.model.config.num_classes}")
    if source is not None and trained.card.examples and class_names != trained.card.class_names:
        raise UsageError(
            f"{source} has the classes {class_names}, the network was trained on {trained.card.class_names}"
        )
    records = materialize(records, geometry_of(trained.config.data), training=False)
    mesh = make_mesh()
    config = _batches_for(trained.config, mesh)  # evaluation does not depend on the size
    return build_evaluation(config, trained.model, trained.card, mesh, logits=logits)(trained.variables, records)


def reestimate_run(trained: TrainedRun, batches: int) -> TrainedRun:
    """Return the same network with batch statistics measured anew on its own training images, not augmented.

    Args:
        trained: as :func:`load_run` gives it.
        batches: how many batches of the run's batch size, in random order, each image at most once.

    Raises:
        UsageError: the run has fewer images or none, or its network has no statistics that can move.
        RunError: the images are not what they were.
    """
    config, card = trained.config, trained.card
    splits = own_splits(trained, "re-estimate statistics from")
    mesh = make_mesh()
    config = _batches_for(config, mesh)
    size = config.train.batch_size
    most = len(splits.train) // size
    if not 1 <= batches <= most:
        raise UsageError(f"{trained.path} has {most} batches of {size} training images; cannot take {batches}")
    order = permutation(len(splits.train), config.seed, SHUFFLE)[: batches * size]
    records = materialize(Subset(splits.train, order), geometry_of(config.data), training=False)
    variables = reestimate(
        trained.model,
        trained.variables,
        evaluation_feed(config, records),
        norm_momentum=trained.model.config.norm_momentum,
        preprocess=eval_preprocess(trained.model, card),
        mesh=mesh,
    )
    return dataclasses.replace(trained, variables=variables)


def own_splits(trained: TrainedRun, purpose: str) -> Splits:
    """Return the splits of a run's own data, as it divided them; nothing is decoded yet.

    Args:
        trained: as :func:`load_run` gives it.
        purpose: what they are for, for the message.

    Raises:
        UsageError: the run was imported and has no data.
        RunError: the images are not what they were.
    """
    if not trained.card.examples:
        raise UsageError(f"{trained.path} was imported: it has no training images to {purpose}")
    splits, class_names = load_splits(trained.config)
    _require_same_data(trained, splits, class_names)
    return splits


def _batches_for(config: RunConfig, mesh: Mesh) -> RunConfig:
    """Return ``config`` with a batch that the devices here can share: a run may have been trained on others."""
    size = -(-config.train.batch_size // mesh.size) * mesh.size
    return dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=size))


def _require_same_data(trained: TrainedRun, splits: Splits, class_names: tuple[str, ...]) -> None:
    parts = {name: getattr(splits, name) for name in SPLITS}
    examples = {name: len(records) for name, records in parts.items() if records is not None}
    if examples != trained.card.examples or class_names != trained.card.class_names:
        raise RunError(
            f"{trained.config.data.source} is not what it was when {trained.path} was trained: then "
            f"{trained.card.examples} of classes {trained.card.class_names}, now {examples} of {class_names}. Its "
            "division into splits would be another one; evaluate on a source of its own with --data.source"
        )


def with_normalization(trained: TrainedRun, mean: Sequence[float], std: Sequence[float]) -> TrainedRun:
    """Return the same network with another normalization of its images.

    Raises:
        UsageError: not one positive deviation and one mean for each channel.
    """
    channels = trained.card.image_shape[-1]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise UsageError(f"need {channels} means and {channels} positive deviations, got {mean} and {std}")
    return dataclasses.replace(trained, card=dataclasses.replace(trained.card, mean=tuple(mean), std=tuple(std)))


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the network sees in one image: the likeliest classes, likeliest first."""

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def predict_images(trained: TrainedRun, paths: Sequence[str | Path], top: int = 5) -> list[Prediction]:
    """Classify image files.

    An image of another size than the network's is brought to it as in evaluation: the shorter side is resized, the
    centre is cut out.

    Args:
        trained: as :func:`load_run` gives it.
        paths: image files.
        top: how many classes to return for each, at most all.

    Raises:
        UsageError: ``top`` is below 1.
        DataError: a file that is missing or no image; it is named.
    """
    if top < 1:
        raise UsageError(f"top must be 1 or more classes, got {top}")
    if not trained.card.mean:
        raise UsageError(f"{trained.path} does not say how its images are normalized: import it with --mean and --std")
    height, width, channels = trained.card.image_shape
    geometry = geometry_of(trained.config.data)
    if geometry.image_size is None:
        if height != width:
            raise UsageError(f"{trained.path} has no data.image_size and its images are not square")
        geometry = Geometry(height)
    images = np.stack([geometry.eval_image(_read_image(Path(path), channels)) for path in paths])
    step = make_predict_step(trained.model, preprocess=eval_preprocess(trained.model, trained.card))
    logits = np.asarray(jax.jit(step)(trained.variables, {"image": images}), np.float64)
    probabilities = _probabilities(logits, trained.config.train.loss)
    predictions = []
    for path, row in zip(paths, probabilities, strict=True):
        order = np.argsort(-row, kind="stable")[:top]
        names = tuple(_class_name(trained.card, index) for index in order)
        predictions.append(Prediction(str(path), names, tuple(float(row[index]) for index in order)))
    return predictions


def _probabilities(logits: np.ndarray, loss: str) -> np.ndarray:
    """Turn logits into what the network was trained to mean by them."""
    if loss == "mse":  # trained towards one-hot vectors
        return np.clip(logits, 0.0, 1.0)
    if loss == "bce":  # one yes or no per class; they need not add up to 1
        return np.exp(-np.logaddexp(0.0, -logits))
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


def _read_image(path: Path, channels: int) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return decode_image(data, channels, str(path))


def _class_name(card: DataCard, index: int) -> str:
    # model.num_classes may be larger than the number of classes of the data
    return card.class_names[index] if index < len(card.class_names) else f"output {index}"
