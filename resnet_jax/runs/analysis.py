"""A network to analyze through depth: a named one at initialization, or a trained run, with images to show it.

:func:`find_target` takes a name or path and returns everything an instrument needs.
"""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import jax
import optax

from resnet_jax.depth.lesion import Right, is_class
from resnet_jax.depth.profiling import describe_normalization, profile
from resnet_jax.depth.result import DepthProfile
from resnet_jax.errors import UsageError
from resnet_jax.models.initialize import init_variables
from resnet_jax.models.layout import stack
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.rows import MODELS
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.analysis_images import RANDOM, Shown, images_of_run, images_of_source, random_images
from resnet_jax.runs.analysis_options import AnalysisConfig, require_target
from resnet_jax.runs.chosen import own_or_other
from resnet_jax.runs.directory import describe_environment
from resnet_jax.runs.images import prepared
from resnet_jax.runs.own_optimizer import own_optimizer
from resnet_jax.runs.trained import TrainedRun, load_network, with_moved_data
from resnet_jax.tasks.binary import Binary
from resnet_jax.tasks.losses import Loss, cross_entropy
from resnet_jax.tasks.task import LossOf, RightOf
from resnet_jax.training.compile import INIT_OPTIONS, options_for
from resnet_jax.training.mesh import make_mesh

#: Fields of a network that determine how it is computed, not which network it is.
HOW_COMPUTED = ("execution", "remat", "dtype")


@dataclasses.dataclass(frozen=True)
class AnalysisTarget:
    """A network, and the images and settings of an analysis of it.

    Attributes:
        name: name for messages.
        model: the network.
        variables: its variables, in the layout of its execution, on one device.
        images: normalized images, ``(n, *spatial, c)``.
        labels: int ``(n,)``; rows of 0 and 1 for multi-label, float rows for regression; all targets by name if there
            are more than labels, such as masks and boxes.
        train: whether batch norm uses the statistics of the batch.
        loss: per example, ``(outputs, labels) -> (n,)``.
        optimizer: transformation and state.
        facts: label -> value, for a report: the network, its weights, the images, the optimizer, ...
        right: whether the outputs are correct for each example, ``(outputs, labels) -> bool (n,)``; None for pixels,
            boxes and values, where this is not defined per example.
    """

    name: str
    model: ResNet
    variables: dict[str, Any]
    images: jax.Array
    labels: Any
    train: bool
    loss: Loss
    optimizer: tuple[optax.GradientTransformation, Any]
    facts: dict[str, str]
    right: Right | None = is_class

    @property
    def judged(self) -> dict[str, Any]:
        """How lesions are judged, as arguments of :func:`resnet_jax.depth.lesion.delete_blocks`.

        Classes are judged by cross-entropy, whatever the network was trained with, so that networks can be compared.
        """
        return {"loss": cross_entropy if self.right is is_class else self.loss, "right": self.right}


def find_target(target: str, config: AnalysisConfig, *, learning_rate: float = 0.1) -> AnalysisTarget:
    """Return the network named ``target``, or that of the run directory at this path.

    Args:
        target: a name from :func:`resnet_jax.models.list_models`, or a run directory.
        config: the options of the analysis.
        learning_rate: learning rate of the SGD update measured for a named network, or a run without an optimizer.

    Raises:
        UsageError: if it is neither a network nor a run directory, choices are incompatible, or there are too few
            images.
    """
    if not learning_rate > 0:
        raise UsageError(f"the learning rate must be above 0, got {learning_rate}")
    require_target(target)
    if target in MODELS:
        return named_target(target, config, learning_rate=learning_rate)
    if others := [f"model.{name}" for name in config.model.changes if name not in HOW_COMPUTED]:
        raise UsageError(f"{target} is a run, which has its own network: leave out {', '.join(others)}")
    return run_target(target, config, learning_rate=learning_rate)


def named_target(name: str, config: AnalysisConfig, *, learning_rate: float = 0.1) -> AnalysisTarget:
    """Return a named network at initialization, with the weights that a training with this seed starts from.

    Raises:
        UsageError: as for :func:`find_target`.
    """
    if config.checkpoint is not None:
        raise UsageError(
            f"{name} is a named network at its initialization and has no checkpoints; name a run directory"
        )
    if config.data.moved_to is not None or config.class_names is not None:
        raise UsageError(
            f"{name} is a named network at its initialization: it has no images that moved and no names for its "
            "outputs; name a run directory"
        )
    spec = ModelSpec(name, **config.model.changes)
    loss: Loss = cross_entropy
    right: Right | None = is_class
    if config.data.source in (None, RANDOM):
        model = ResNet(spec.config())
        _require_classes(model, name)
        if model.config.head != "classifier":
            raise UsageError(
                f"{name} with model.head {model.config.head}: a named network at its initialization is looked at with "
                "its classifier, and only a run has a task for another head; train one, a step will do, and name its "
                "directory"
            )
        side = MODELS[name].image_size if config.data.image_size is None else config.data.image_size
        shown = random_images(config, (*(side,) * model.config.spatial_dims, model.config.in_channels), model)
    else:
        shown, model, task = images_of_source(config, spec)
        if model.config.head != "classifier":
            loss, right = LossOf(task), None
    _require_several(config, model)
    mesh = make_mesh(jax.devices()[:1])
    key = jax.random.split(jax.random.key(config.seed))[0]  # as training.state.init_state does
    init = jax.jit(
        lambda key: init_variables(model, key, shown.images.shape[1:]), compiler_options=options_for(INIT_OPTIONS, mesh)
    )
    variables = init(key)
    tx = optax.sgd(learning_rate)
    facts = {
        "network": _network(spec, variables),
        "weights": f"at initialization (seed {config.seed})",
        "updates": f"of plain SGD, learning rate {learning_rate:g}",
    }
    optimizer = tx, tx.init(variables["params"])
    return _target(name, model, variables, shown, config, loss, optimizer, facts, right)


def run_target(path: str | Path, config: AnalysisConfig, *, learning_rate: float = 0.1) -> AnalysisTarget:
    """Return the network of a run directory, with its own training images and optimizer.

    Raises:
        UsageError: if it is not a run directory, there are too few images, or none are known.
        RunError: if there is no such checkpoint, or the images have changed.
    """
    trained, source = load_network(path, config.checkpoint), config.data.source
    if source is None and not trained.was_trained_here:
        raise UsageError(f"{path} was imported: it has no training images to look with; name a data.source, or random")
    if source != RANDOM and config.data.moved_to is None:
        trained, source = own_or_other(trained, source)
    trained = prepared(_computed(trained, config), config.data, config.class_names)
    model, run = trained.model, trained.config
    if not model.config.num_classes:
        raise UsageError(f"{trained.path} has no classifier (num_classes 0): it has no loss whose gradients to look at")
    if source == RANDOM:
        shown = random_images(config, trained.card.image_shape, model, trained.card)
    else:
        shown = images_of_run(config, trained, source)
    _require_several(config, model)
    optimizer, updates = own_optimizer(trained, learning_rate, config.checkpoint)
    facts = {
        "network": _network(run.model.replace(**config.model.changes), trained.variables),
        "weights": f"of {trained.path.name}"
        + (f" after step {trained.step:,}" if trained.card.examples else ", imported")
        + (", averaged over steps" if run.train.averaging() is not None else ""),
        "updates": updates,
    }
    name = trained.path.resolve().name
    return _target(
        name, model, trained.variables, shown, config, LossOf(trained.task), optimizer, facts, _right(trained)
    )


def profile_target(target: AnalysisTarget) -> DepthProfile:
    """Measure signals and gradients; the facts are in the result's ``about``."""
    found = profile(
        target.model,
        target.variables,
        target.images,
        target.labels,
        train=target.train,
        loss=target.loss,
        optimizer=target.optimizer,
    )
    facts = {**target.facts, "loss": f"{found.about['loss']:.4g} (mean over the batch)", "blocks": str(len(found))}
    return dataclasses.replace(found, about={**found.about, "name": target.name, "facts": facts})


def _target(
    name: str,
    model: ResNet,
    variables: Any,
    shown: Shown,
    config: AnalysisConfig,
    loss: Loss,
    optimizer: tuple[optax.GradientTransformation, Any],
    facts: dict[str, str],
    right: Right | None = is_class,
) -> AnalysisTarget:
    environment = describe_environment()
    packages = environment["packages"]
    network, train = model.config, config.norm_mode == "batch"
    facts = {
        "network": facts["network"],
        "weights": facts["weights"],
        "images": f"{shown.said}; {'x'.join(str(side) for side in shown.images.shape[1:])}",
        "normalization": describe_normalization(model, variables, train),
        "updates": facts["updates"],
        "computed in": f"{network.dtype}, execution {network.execution}, remat {network.remat}",
        "versions": ", ".join(f"{name} {packages[name]}" for name in ("resnet_jax", "jax", "flax") if packages[name]),
        "device": environment["devices"][0],
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return AnalysisTarget(name, model, variables, shown.images, shown.labels, train, loss, optimizer, facts, right)


def _right(trained: TrainedRun) -> Right | None:
    if trained.task.headline != "accuracy":
        return None
    of_classes = trained.card.label_kind == "class" and trained.model.config.num_classes > 1
    return is_class if of_classes else RightOf(trained.task) if isinstance(trained.task, Binary) else None


def _computed(trained: TrainedRun, config: AnalysisConfig) -> TrainedRun:
    """Return the run with its network computed as requested, on one device."""
    model = ResNet(dataclasses.replace(trained.model.config, **config.model.changes))
    variables = jax.device_put(stack(trained.variables, model.config.execution), jax.devices()[0])
    changed = dataclasses.replace(trained, model=model, variables=variables)
    return changed if config.data.moved_to is None else with_moved_data(changed, config.data.moved_to)


def _require_classes(model: ResNet, name: object) -> None:
    outputs = model.config.num_classes
    if outputs < 2:
        raise UsageError(
            f"{name} has {outputs} outputs: the loss whose gradients are measured needs two classes or more"
        )


def _require_several(config: AnalysisConfig, model: ResNet) -> None:
    batch_norm = model.config.norm == "batch" and model.config.norm_scope != "frozen"
    if config.batch == 1 and config.norm_mode == "batch" and batch_norm:
        raise UsageError(
            "batch norm takes its statistics over the images of the batch, and one image has none to speak of: use "
            "batch 2 or more, or norm_mode running"
        )


def _network(spec: ModelSpec, variables: Any) -> str:
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    changed = [f", {key} {value}" for key, value in spec.changes.items() if key not in HOW_COMPUTED]
    return f"{spec.name}{''.join(changed)}: {size:,} parameters"
