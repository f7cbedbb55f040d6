"""The images a network is analyzed with: random ones, the first ones of a source, or a run's own training images."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.augment import downscaled, normalize
from resnet_jax.data.in_memory import materialize
from resnet_jax.data.records import Records, Subset
from resnet_jax.data.rng import SHUFFLE, permutation
from resnet_jax.data.transform import Geometry
from resnet_jax.data.view import View
from resnet_jax.errors import UsageError
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.build import build_model, build_task
from resnet_jax.runs.chosen import Chosen, choose_images
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.data import geometry_of, load_images
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.legacy_augment import with_old_fields
from resnet_jax.runs.sizes import bring_to_size, describe_sizes
from resnet_jax.runs.trained import TrainedRun, require_normalization
from resnet_jax.runtime.paths import source_name
from resnet_jax.tasks.facts import SAID_OF_KIND
from resnet_jax.tasks.task import Task
from resnet_jax.training.need import ANALYSIS, require_memory

if TYPE_CHECKING:
    from resnet_jax.runs.analysis_options import AnalysisConfig

_log = logging.getLogger(__name__)

#: The source of images whose pixels are independent N(0, 1) draws, with random labels.
RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Shown:
    """Images shown to a network.

    Attributes:
        images: normalized images, ``(n, *spatial, c)``.
        labels: int ``(n,)``; rows of 0 and 1 or values, depending on the network; all targets by name if there are
            more.
        said: a description of them.
    """

    images: jax.Array
    labels: Any
    said: str


def random_images(
    config: AnalysisConfig, shape: tuple[int, ...], model: ResNet, card: DatasetInfo | None = None
) -> Shown:
    """Draw independent N(0, 1) pixels, and labels of the kind the network needs.

    Args:
        config: number of images and seed.
        shape: shape of an image.
        model: the network.
        card: data of a run; None for a named network, which has classes.
    """
    _require_memory(config.batch, shape, model)
    pixels, which = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1))
    images = jax.random.normal(pixels, (config.batch, *shape))
    outputs, kind = model.config.num_classes, "class" if card is None else card.label_kind
    if kind == "class":
        labels = jax.random.randint(which, (config.batch,), 0, max(outputs, 2))
    elif kind == "multi-label":
        labels = jax.random.bernoulli(which, 0.5, (config.batch, outputs)).astype(jnp.float32)
    else:
        assert card is not None
        if kind != "value":
            raise UsageError(
                f"random images have no {SAID_OF_KIND.get(kind, kind)} to compare outputs with: leave data.source out, "
                "or name one that has"
            )
        mean, std = (jnp.asarray(values or (fallback,), jnp.float32)[None] for values, fallback in _scales(card))
        labels = mean + std * jax.random.normal(which, (config.batch, outputs))
    return Shown(images, labels, f"{config.batch} of independent N(0, 1) pixels, random labels (seed {config.seed})")


def images_of_source(config: AnalysisConfig, spec: ModelSpec) -> tuple[Shown, ResNet, Task]:
    """Read training images of a source for a named network; return them, the network for their labels, and its task."""
    source, prepared = str(config.data.source), config.data
    data = DataConfig(source=source, image_size=prepared.image_size, mean=prepared.mean, std=prepared.std)
    if prepared.crop is not None:
        data = dataclasses.replace(data, augment=with_old_fields(data.augment, {"crop": prepared.crop}))
    run = RunConfig(model=spec, data=data, seed=config.seed)
    found = load_images(run)
    model = build_model(run, found.card)
    records = materialize(_first(config, found.splits.train), geometry_of(data), training=False)
    images, labels = _normalized(records, model, found.card)
    said = f"{config.batch} training images of {source_name(source)} (seed {config.seed}), not augmented"
    said = "; ".join((said, *found.splits.notes))
    if path := source.partition(":")[2]:
        said = said.replace(path, Path(path).name)
    return Shown(images, labels, said), model, build_task(run, found.card)


def images_of_run(config: AnalysisConfig, trained: TrainedRun, source: str | None) -> Shown:
    """Read a run's own training images, or those of another source, in the network's size."""
    require_normalization(trained)
    chosen = choose_images(trained, "train", source)
    records, sizes = bring_to_size(trained, _first(config, chosen.records))
    images, labels = _normalized(records, trained.model, trained.card)
    said = "; ".join((_said(config, chosen), *chosen.said, *describe_sizes(trained, sizes.seen)))
    for place in (trained.config.data.source, chosen.place):
        said = said.replace(place, source_name(place))
    return Shown(images, labels, said.replace(str(trained.path), trained.path.resolve().name))


def _scales(card: DatasetInfo) -> tuple[tuple[tuple[float, ...], float], ...]:
    """Return mean and standard deviation of the targets, with defaults if they are unknown."""
    return (card.target_mean, 0.0), (card.target_std, 1.0)


def _require_memory(batch: int, shape: tuple[int, ...], model: ResNet) -> None:
    """Reject a batch whose forward and backward pass cannot fit in memory, before its images are made."""
    require_memory(model, shape, batch=batch, devices=jax.devices()[:1], warn=_log.warning, options=ANALYSIS)


def _first(config: AnalysisConfig, records: Records) -> Subset:
    """Return the first images of the records in an order determined by the seed."""
    if config.batch > len(records):
        raise UsageError(f"batch {config.batch} is more than the {len(records):,} images there are")
    return Subset(records, permutation(len(records), config.seed, SHUFFLE)[: config.batch])


def _normalized(records: Records, model: ResNet, card: DatasetInfo) -> tuple[jax.Array, Any]:
    """Return images and their labels; for a network whose head is not a classifier, all targets by name."""
    _require_memory(len(records), card.image_shape, model)
    fields = View(records, Geometry(), training=False).examples(np.arange(len(records)))
    images = normalize(jnp.asarray(fields["image"]), card.mean, card.std, jnp.dtype(model.config.dtype))
    images = downscaled(images, card.downscale)
    targets = {name: jnp.asarray(values) for name, values in fields.items() if name != "image"}
    labels = jnp.asarray(records.labels)
    return images, labels if model.config.head == "classifier" else {**targets, "label": labels}


def _said(config: AnalysisConfig, chosen: Chosen) -> str:
    if chosen.own:
        whose = "of the run's own training images"
    else:
        part = "" if chosen.split == "all" else f"{chosen.split} "
        whose = f"{part}images of {source_name(chosen.place)}"
    return f"{config.batch} {whose} (seed {config.seed}), not augmented"
