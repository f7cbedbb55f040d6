"""Using a trained run: load it and evaluate it on a split or on other images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from resnet_jax.data.in_memory import materialize
from resnet_jax.data.records import Subset
from resnet_jax.data.rng import SHUFFLE, permutation
from resnet_jax.data.unreadable import LeftOut
from resnet_jax.errors import UsageError
from resnet_jax.models.towers import TwoTowers
from resnet_jax.runs.arrays import Arrays, as_dataset
from resnet_jax.runs.build import build_evaluation, evaluation_feed
from resnet_jax.runs.chosen import SPLITS, choose_images, own_or_other, own_splits
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.located import coco_of
from resnet_jax.runs.other_input import require_other
from resnet_jax.runs.predict import Prediction, Predictor, predict_images
from resnet_jax.runs.preparation import eval_preprocess
from resnet_jax.runs.sizes import bring_to_size, describe_sizes
from resnet_jax.runs.trained import (
    TrainedRun,
    load_run,
    require_normalization,
    with_class_names,
    with_geometry,
    with_moved_data,
    with_normalization,
)
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.pixel_views import SCALES, WINDOWS
from resnet_jax.training.reestimation import reestimate
from resnet_jax.training.views import MARGIN, Views

__all__ = [
    "SPLITS",
    "Prediction",
    "Predictor",
    "RunEvaluation",
    "TrainedRun",
    "evaluate_run",
    "load_run",
    "own_splits",
    "predict_images",
    "reestimate_run",
    "with_class_names",
    "with_geometry",
    "with_moved_data",
    "with_normalization",
]


@dataclasses.dataclass(frozen=True)
class RunEvaluation(Evaluation):
    """The result over images, and a description of these.

    Attributes:
        split: ``train``, ``val`` or ``test``; ``all`` for every image of a source with a single split.
        own: whether that is a split of the run's own data, as the run divided it. Otherwise the images may include
            training images of the network.
        place: where the images are.
        classes: number of classes they belong to; the network has ``len(confusion)``.
        what: a description of the images, ``the test split`` or ``all 1,017 images of npz:x.npz``.
        said: what was done to images and classes, one sentence each.
        skipped: unreadable images, which count nowhere (``data.on_corrupt skip``); their logits are NaN.
        coco: detections as a JSON object in COCO format, if requested.
    """

    split: str = ""
    own: bool = True
    place: str = ""
    classes: int = 0
    what: str = ""
    said: tuple[str, ...] = ()
    skipped: tuple[LeftOut, ...] = ()
    coco: dict[str, Any] | None = None


def evaluate_run(
    trained: TrainedRun | str | Path,
    split: str = "test",
    *,
    source: str | None = None,
    data: Arrays | None = None,
    logits: bool = False,
    summands: bool = False,
    views: Views = "none",
    coco: bool = False,
) -> RunEvaluation:
    """Evaluate a network on a split of its own data, as the run divided it, or on another source.

    Images are resized to the network's own size, and classes are matched by name, whatever the source.

    Args:
        trained: as returned by :func:`load_run`, or the path of a run directory.
        split: ``train``, ``val`` or ``test``; or ``all``: every image of a ``source`` with a single split.
        source: another data source, of which the source's own ``split`` is evaluated, or everything if it has a single
            split. If it is the run's own data at another location, the run's own division is used.
        data: arrays instead of a source, ``(x, y)`` or anything that :func:`resnet_jax.data.load_arrays` accepts;
            arrays that a run was trained on are split as the run split them.
        logits: also return the outputs of the network, in the order of the images.
        summands: also return, in ``rows``, the summands of each image (:data:`resnet_jax.training.step.SUMMAND`).
        views: test-time views: ``flip``: the mean over the image and its mirror image; ``flip_shift``: half of that,
            and half of these shifted by a pixel each way; ``ten_crop``: over the corners and the center of an image
            enlarged by 1 / 0.875, and their mirror images. Probabilities are averaged, or values for regression.
        coco: for boxes: also return the detections as a JSON object in COCO format, in pixels of the images as stored.

    Raises:
        UsageError: if there is no such split or normalization, classes cannot be matched, or the network has no
            classes.
        DataError: if the images do not exist or are unreadable.
        RunError: if the run's own data has changed.
    """
    trained = trained if isinstance(trained, TrainedRun) else load_run(trained)
    require_normalization(trained)
    if source is not None and data is not None:
        raise UsageError(f"source {source} and data both name the images: give one of them")
    dataset = None if data is None else as_dataset(data, channels=trained.card.image_shape[-1])
    chosen = choose_images(trained, split, source, dataset)
    if isinstance(trained.model, TwoTowers):
        require_other(trained.card.other, chosen.records, chosen.place)
    unreadable = trained.config.data.unreadable(chosen.split, len(chosen.records))
    seen, said = with_views(trained, views)
    records, sizes = bring_to_size(seen, chosen.records, unreadable)
    mesh = make_mesh()
    evaluation = build_evaluation(
        evaluation_config(seen, mesh),
        trained.model,
        trained.card,
        mesh,
        logits=logits,
        summands=summands,
        views=views,
        unreadable_of=lambda _: unreadable,
    )
    result = evaluation(trained.variables, records)
    found: dict[str, Any] = {field.name: getattr(result, field.name) for field in dataclasses.fields(Evaluation)}
    skipped = () if unreadable is None else tuple(unreadable.entries)
    lost = {entry.index for entry in skipped}
    return RunEvaluation(
        **{**found, "rows": _in_place(result.rows, skipped, len(records))},
        split=chosen.split,
        own=chosen.own,
        place=chosen.place,
        classes=chosen.classes,
        what=chosen.what,
        said=(*chosen.said, *describe_sizes(seen, sizes.seen), *said),
        skipped=skipped,
        coco=coco_of(trained, result.rows, chosen.records, lost) if coco else None,
    )


def _in_place(rows: Mapping[str, np.ndarray], skipped: Sequence[LeftOut], total: int) -> Mapping[str, np.ndarray]:
    """Return what was kept of every image, with logits of NaN for skipped ones."""
    if not skipped or "logits" not in rows:
        return rows
    logits = np.full((total, *rows["logits"].shape[1:]), np.nan, rows["logits"].dtype)
    logits[~np.isin(np.arange(total), [entry.index for entry in skipped])] = rows["logits"]
    return {**rows, "logits": logits}


def with_views(trained: TrainedRun, views: Views) -> tuple[TrainedRun, tuple[str, ...]]:
    """Return the run with images of the size that views are taken from, and a description.

    Raises:
        UsageError: if its inputs are not images, or not square for ten_crop.
    """
    shape = trained.card.image_shape
    if views == "none":
        return trained, ()
    if len(shape) != 3:
        raise UsageError(f"views {views} are of images (height, width, channels), and {trained.path} takes {shape}")
    if views == "flip":
        return trained, ("averaged over 2 views: the image and its mirror image",)
    if views == "multi_scale":
        return trained, (f"averaged over {2 * len(SCALES)} views: {SCALES} times as large, and their mirror images",)
    if views == "sliding":
        return trained, (f"averaged over {WINDOWS**2} overlapping windows of half the sides",)
    if shape[0] != shape[1]:
        raise UsageError(f"ten crops are of square images, and {trained.path} takes {shape[0]}x{shape[1]}")
    larger = round(shape[0] * MARGIN)
    said = f"averaged over 10 views: crops of {shape[0]} of {larger} pixels, and their mirror images"
    return with_geometry(trained, larger, "none"), (said,)


def reestimate_run(trained: TrainedRun, batches: int, *, source: str | None = None) -> TrainedRun:
    """Return the same network with batch statistics recomputed on its own training images, without augmentation.

    Args:
        trained: as returned by :func:`load_run`.
        batches: number of batches of the run's batch size, in random order, each image at most once.
        source: where the run's own data may be now; any other source is ignored.

    Raises:
        UsageError: if the run has too few images or none, or its network has no statistics that can change.
        RunError: if the images have changed.
    """
    require_normalization(trained)
    splits = own_splits(own_or_other(trained, source)[0], "re-estimate statistics from")
    mesh = make_mesh()
    config = evaluation_config(trained, mesh)
    size = config.train.batch_size
    most = len(splits.train) // size
    if not 1 <= batches <= most:
        raise UsageError(f"{trained.path} has {most} batches of {size} training images; cannot take {batches}")
    order = permutation(len(splits.train), config.seed, SHUFFLE)[: batches * size]
    records = materialize(Subset(splits.train, order), trained.geometry, training=False)
    variables = reestimate(
        trained.model,
        trained.variables,
        evaluation_feed(config, records),
        norm_momentum=trained.model.config.norm_momentum,
        preprocess=eval_preprocess(trained.model, trained.card),
        mesh=mesh,
    )
    return dataclasses.replace(trained, variables=variables)


def evaluation_config(trained: TrainedRun, mesh: Mesh) -> RunConfig:
    """Return the run's configuration with the network's own image size and a batch size that fits the devices.

    The run may have used other devices; evaluation does not depend on the batch size.
    """
    config = trained.config
    size = -(-config.train.batch_size // mesh.size) * mesh.size
    geometry = trained.geometry
    sized = {"image_size": geometry.image_size, "resize": geometry.resize, "eval_side": geometry.eval_side}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, **sized),
        train=dataclasses.replace(config.train, batch_size=size),
    )
