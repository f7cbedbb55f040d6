"""Looking at a network through depth: a named one at its initialization, or a trained run, with images to look with.

:func:`find_subject` takes what a person names and returns everything that an instrument needs.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax.data.augment import normalize
from resnet_jax.data.classes import read_class_names
from resnet_jax.data.memory import materialize
from resnet_jax.data.records import Records, Subset
from resnet_jax.data.rng import SHUFFLE, permutation
from resnet_jax.data.stats import check_normalization
from resnet_jax.data.transform import Geometry
from resnet_jax.data.view import View
from resnet_jax.depth.profiling import describe_normalization, profile
from resnet_jax.depth.result import DepthProfile
from resnet_jax.errors import UsageError, closest, either, unknown
from resnet_jax.models.initialize import init_variables
from resnet_jax.models.layout import stack
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.rows import MODELS
from resnet_jax.models.zoo import create_model
from resnet_jax.runs.build import build_model
from resnet_jax.runs.chosen import Chosen, bring_to_size, choose_images, describe_sizes, own_or_other
from resnet_jax.runs.config import DataConfig, ModelConfig, RunConfig
from resnet_jax.runs.data import geometry_of, load_images
from resnet_jax.runs.directory import DataCard, describe_environment
from resnet_jax.runs.own_optimizer import own_optimizer
from resnet_jax.runs.trained import (
    TrainedRun,
    load_run,
    require_images,
    with_class_names,
    with_geometry,
    with_moved_data,
    with_normalization,
)
from resnet_jax.runtime.paths import user_path
from resnet_jax.tasks.losses import get_loss
from resnet_jax.training.compile import INIT_OPTIONS, options_for
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.need import LOOKING, require_memory

_log = logging.getLogger(__name__)

NORM_MODES = ("batch", "running")
#: The source of images that are independent N(0, 1) pixels with random labels.
RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Looking:
    """With what a network is looked at.

    Attributes:
        batch: images.
        seed: of the initialization of a named network, and of which images are taken or drawn.
        norm_mode: ``batch``: batch norm normalizes by the statistics of this batch, as in training; ``running``: by its
            running averages, as in evaluation.
        source: images: ``random``, or as in :mod:`resnet_jax.data.source`. None: a run's own training images; for a
            named network random ones.
        image_size: side in pixels; None: the network's, or the source's.
        mean: subtracted from x / 255 of a source, per channel; empty: the run's, or that of the images.
        std: divides it.
        learning_rate: of the SGD whose update is measured in a named network.
        moved_to: where a run's own images lie now, if no longer where it was trained.
        class_names: file with the names of a run's outputs, by which the classes of ``source`` are matched; None: what
            the run knows.
        checkpoint: of a run: last or best; None: the one it tested.
        execution: another way to compute the same: see :class:`resnet_jax.models.ResNetConfig`.
        remat: the same.
        dtype: of the computation.
    """

    batch: int
    seed: int = 0
    norm_mode: str = "batch"
    source: str | None = None
    image_size: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    learning_rate: float = 0.1
    moved_to: str | None = None
    class_names: Path | None = None
    checkpoint: str | None = None
    execution: str | None = None
    remat: str | None = None
    dtype: str | None = None

    def __post_init__(self):
        """Check the numbers; raises UsageError."""
        for name in ("batch", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', ' ')} must be 1 or more, got {value}")
        if self.seed < 0:
            raise UsageError(f"seed must be 0 or more, got {self.seed}")
        if not self.learning_rate > 0:
            raise UsageError(f"the learning rate must be above 0, got {self.learning_rate}")
        if self.norm_mode not in NORM_MODES:
            raise unknown("norm mode", self.norm_mode, NORM_MODES)
        check_normalization(self.mean, self.std)
        if self.moved_to is not None and self.source is not None:
            raise UsageError(
                "give --data.moved-to, where the run's own images lie now, or --data.source, other images; not both"
            )

    @property
    def computation(self) -> dict[str, Any]:
        """What changes how the network is computed, as fields of a :class:`ResNetConfig`."""
        asked = {"execution": self.execution, "remat": self.remat, "dtype": self.dtype}
        return {name: value for name, value in asked.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network and what to look at it with.

    Attributes:
        name: for people.
        model: the network.
        variables: its variables, in the layout of its execution, on one device.
        images: normalized, ``(n, *spatial, c)``.
        labels: int ``(n,)``.
        train: whether batch norm normalizes by the statistics of the batch.
        loss: per example, ``(logits, labels) -> (n,)``.
        optimizer: transformation and state.
        facts: label -> value, for a report: the network, its weights, the images, the optimizer, ...
    """

    name: str
    model: ResNet
    variables: dict[str, Any]
    images: jax.Array
    labels: jax.Array
    train: bool
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    optimizer: tuple[optax.GradientTransformation, Any]
    facts: dict[str, str]


def find_subject(target: str, looking: Looking, model: ModelConfig | None = None) -> Subject:
    """Return the network called ``target``, or the one of the run directory of that path.

    Args:
        target: a name of :func:`resnet_jax.models.list_models`, or a run directory.
        looking: with what.
        model: choices that differ from the named network's; its own name is not looked at.

    Raises:
        UsageError: neither a network nor a run directory, choices that do not fit, or more images than there are.
    """
    choices = {} if model is None else model.choices()
    if target in MODELS:
        return initial_subject(target, looking, choices)
    if not user_path(target).exists():
        near = either([repr(name) for name in closest(target, MODELS)])
        raise UsageError(
            f"{target!r} is neither a network that `resnet-jax models` lists nor a run directory; did you mean {near}?"
        )
    if choices:
        listed = ", ".join(f"--model.{name}" for name in choices)
        raise UsageError(f"{target} is a run, which has its own network: leave out {listed}")
    return run_subject(target, looking)


def initial_subject(name: str, looking: Looking, choices: dict[str, Any] | None = None) -> Subject:
    """Return a named network at its initialization: the weights with which a training of this seed begins.

    Args:
        name: of the network.
        looking: with what.
        choices: fields of :class:`resnet_jax.runs.config.ModelConfig` that differ from the named network's.

    Raises:
        UsageError: as :func:`find_subject`.
    """
    if looking.checkpoint is not None:
        raise UsageError(
            f"{name} is a named network at its initialization and has no checkpoints; name a run directory"
        )
    if looking.moved_to is not None or looking.class_names is not None:
        raise UsageError(
            f"{name} is a named network at its initialization: it has no images that moved and no names for its "
            "outputs; name a run directory"
        )
    choices = {**(choices or {}), **looking.computation}
    if looking.source in (None, RANDOM):
        model = create_model(name, **choices)
        _require_classes(model, name)
        config = model.config
        side = MODELS[name].image_size if looking.image_size is None else looking.image_size
        images, labels = _random(looking, (*(side,) * config.spatial_dims, config.in_channels), model)
        said = f"{looking.batch} of independent N(0, 1) pixels, random labels (seed {looking.seed})"
    else:
        data = DataConfig(source=looking.source, image_size=looking.image_size, mean=looking.mean, std=looking.std)
        config = RunConfig(model=ModelConfig(name, **choices), data=data, seed=looking.seed)
        found = load_images(config)
        model = build_model(config, found.card)
        images, labels = _read(looking, found.splits.train, config, model, found.card)
        said = f"{looking.batch} training images of {_short(looking.source)} (seed {looking.seed}), not augmented"
        said = "; ".join((said, *found.splits.notes))
        if path := looking.source.partition(":")[2]:
            said = said.replace(path, Path(path).name)
    _require_several(looking, model)
    mesh = make_mesh(jax.devices()[:1])
    key = jax.random.split(jax.random.key(looking.seed))[0]  # as training.state.init_state does
    init = jax.jit(
        lambda key: init_variables(model, key, images.shape[1:]), compiler_options=options_for(INIT_OPTIONS, mesh)
    )
    variables = init(key)
    tx = optax.sgd(looking.learning_rate)
    facts = {
        "network": _network(name, choices, variables),
        "weights": f"at initialization (seed {looking.seed})",
        "images": f"{said}; {_size(images)}",
        "updates": f"of plain SGD, learning rate {looking.learning_rate:g}",
    }
    loss = get_loss("cross_entropy", 0.0)
    return _subject(name, model, variables, images, labels, looking, loss, (tx, tx.init(variables["params"])), facts)


def run_subject(path: str | Path, looking: Looking) -> Subject:
    """Return the network of a run directory, with its own training images and its own optimizer.

    Raises:
        UsageError: not a run directory, more images than there are, or none are known.
        RunError: no such checkpoint, or the images are not what they were.
    """
    trained, source = load_run(path, looking.checkpoint), looking.source
    if source is None and not trained.was_trained_here:
        raise UsageError(
            f"{path} was imported: it has no training images to look with; name a --data.source, or random"
        )
    if source != RANDOM and looking.moved_to is None:
        trained, source = own_or_other(trained, source)
    trained = _computed(trained, looking)
    model, config = trained.model, trained.config
    _require_classes(model, trained.path)
    if looking.mean or looking.std:
        trained = with_normalization(trained, looking.mean, looking.std)
    if looking.class_names is not None:
        names = read_class_names(looking.class_names, model.config.num_classes)
        trained = with_class_names(trained, names)
    if source == RANDOM:
        images, labels = _random(looking, trained.card.image_shape, model)
        said = f"{looking.batch} of independent N(0, 1) pixels, random labels (seed {looking.seed})"
    else:
        require_images(trained)
        chosen = choose_images(trained, "train", source)
        records, sizes = bring_to_size(trained, _first(looking, chosen.records))
        images, labels = _normalized(records, model, trained.card)
        said = "; ".join((_said(looking, chosen), *chosen.said, *describe_sizes(trained, sizes.seen)))
        for place in (config.data.source, chosen.place):
            said = said.replace(place, _short(place))
        said = said.replace(str(trained.path), trained.path.resolve().name)
    _require_several(looking, model)
    optimizer, updates = own_optimizer(trained, looking.learning_rate, looking.checkpoint)
    facts = {
        "network": _network(config.model.name, {**config.model.choices(), **looking.computation}, trained.variables),
        "weights": f"of {trained.path.name}"
        + (f" after step {trained.step:,}" if trained.card.examples else ", imported")
        + (", averaged over steps" if config.train.averaging() is not None else ""),
        "images": f"{said}; {_size(images)}",
        "updates": updates,
    }
    name = trained.path.resolve().name
    loss = get_loss(config.train.loss, config.train.label_smoothing)
    return _subject(name, model, trained.variables, images, labels, looking, loss, optimizer, facts)


def profile_subject(subject: Subject) -> DepthProfile:
    """Measure signals and gradients; the facts are in the result's ``about``."""
    found = profile(
        subject.model,
        subject.variables,
        subject.images,
        subject.labels,
        train=subject.train,
        loss=subject.loss,
        optimizer=subject.optimizer,
    )
    facts = {**subject.facts, "loss": f"{found.about['loss']:.4g} (mean over the batch)", "blocks": str(len(found))}
    return dataclasses.replace(found, about={**found.about, "name": subject.name, "facts": facts})


def _subject(
    name: str,
    model: ResNet,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    looking: Looking,
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    optimizer: tuple[optax.GradientTransformation, Any],
    facts: dict[str, str],
) -> Subject:
    environment = describe_environment()
    packages = environment["packages"]
    config = model.config
    facts = {
        **{name: facts[name] for name in ("network", "weights", "images")},
        "normalization": describe_normalization(model, variables, looking.norm_mode == "batch"),
        "updates": facts["updates"],
        "computed in": f"{config.dtype}, execution {config.execution}, remat {config.remat}",
        "versions": ", ".join(f"{name} {packages[name]}" for name in ("resnet-jax", "jax", "flax") if packages[name]),
        "device": environment["devices"][0],
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return Subject(name, model, variables, images, labels, looking.norm_mode == "batch", loss, optimizer, facts)


def _random(looking: Looking, shape: tuple[int, ...], model: ResNet) -> tuple[jax.Array, jax.Array]:
    _require_memory(looking.batch, shape, model)
    pixels, which = jax.random.split(jax.random.fold_in(jax.random.key(looking.seed), 1))
    images = jax.random.normal(pixels, (looking.batch, *shape))
    return images, jax.random.randint(which, (looking.batch,), 0, model.config.num_classes)


def _require_memory(batch: int, shape: tuple[int, ...], model: ResNet) -> None:
    """Refuse a batch whose forward and backward pass cannot fit, before its images are made."""
    require_memory(model, shape, batch=batch, devices=jax.devices()[:1], warn=_log.warning, options=LOOKING)


def _read(
    looking: Looking, records: Records, config: RunConfig, model: ResNet, card: DataCard
) -> tuple[jax.Array, jax.Array]:
    """Return the images of a named network's own source, as stored or in the size asked for, and their labels."""
    records = materialize(_first(looking, records), geometry_of(config.data), training=False)
    return _normalized(records, model, card)


def _first(looking: Looking, records: Records) -> Subset:
    """Return the first images of the records in an order that the seed gives."""
    if looking.batch > len(records):
        raise UsageError(f"--batch {looking.batch} is more than the {len(records):,} images there are")
    return Subset(records, permutation(len(records), looking.seed, SHUFFLE)[: looking.batch])


def _normalized(records: Records, model: ResNet, card: DataCard) -> tuple[jax.Array, jax.Array]:
    _require_memory(len(records), card.image_shape, model)
    pixels = View(records, Geometry(), training=False).images(np.arange(len(records)))
    images = normalize(jnp.asarray(pixels), card.mean, card.std, jnp.dtype(model.config.dtype))
    return images, jnp.asarray(records.labels)


def _said(looking: Looking, chosen: Chosen) -> str:
    if chosen.own:
        whose = "of the run's own training images"
    else:
        part = "" if chosen.split == "all" else f"{chosen.split} "
        whose = f"{part}images of {_short(chosen.place)}"
    return f"{looking.batch} {whose} (seed {looking.seed}), not augmented"


def _computed(trained: TrainedRun, looking: Looking) -> TrainedRun:
    """Return the run with its network computed as asked for, on one device."""
    model = ResNet(dataclasses.replace(trained.model.config, **looking.computation))
    variables = jax.device_put(stack(trained.variables, model.config.execution), jax.devices()[0])
    changed = dataclasses.replace(trained, model=model, variables=variables)
    if looking.image_size is not None:
        changed = with_geometry(changed, looking.image_size, None)
    return changed if looking.moved_to is None else with_moved_data(changed, looking.moved_to)


def _require_classes(model: ResNet, name: object) -> None:
    outputs = model.config.num_classes
    if outputs < 2:
        raise UsageError(
            f"{name} has {outputs} outputs: the loss whose gradients are looked at needs two classes or more"
        )


def _require_several(looking: Looking, model: ResNet) -> None:
    config = model.config
    if looking.batch == 1 and looking.norm_mode == "batch" and config.norm == "batch" and config.norm_scope != "frozen":
        raise UsageError(
            "batch norm takes its statistics over the images of the batch, and one image has none to speak of: use "
            "--batch 2 or more, or --norm-mode running"
        )


def _network(name: str, choices: dict[str, Any], variables: Any) -> str:
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    changed = [f", {key} {value}" for key, value in choices.items() if key not in ("execution", "remat", "dtype")]
    return f"{name}{''.join(changed)}: {size:,} parameters"


def _short(source: str | None) -> str:
    """Return a source without the folders of its path: a report may travel."""
    kind, colon, path = str(source).partition(":")
    return f"{kind}{colon}{Path(path).name}"


def _size(images: jax.Array) -> str:
    return "x".join(str(side) for side in images.shape[1:])
