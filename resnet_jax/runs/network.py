"""The network and the task of a configuration, for the data that a card describes."""

from __future__ import annotations

from resnet_jax.data.transforms import divide
from resnet_jax.errors import UsageError, either
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.spec import ModelSpec
from resnet_jax.models.towers import TwoTowers, two_towers
from resnet_jax.runs.config import OtherConfig, RunConfig
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.tasks.facts import TaskFacts
from resnet_jax.tasks.multitask import Multitask
from resnet_jax.tasks.registry import make_task
from resnet_jax.tasks.task import Task


def build_model(config: RunConfig, card: DatasetInfo) -> ResNet:
    """Build a network with one input for the data; see :func:`build_network`.

    Raises:
        UsageError: as there, or if it has two towers.
    """
    network = build_network(config, card)
    if isinstance(network, TwoTowers):
        raise UsageError("this takes a network of one input, and that of task.kind contrastive has two towers")
    return network


def build_network(config: RunConfig, card: DatasetInfo, *, devices: int | None = None) -> ResNet | TwoTowers:
    """Build the network for the data, with its classes and channels unless the configuration says otherwise.

    For a task with two inputs it has two towers, ``model`` on the left and ``other.model`` on the right.

    Args:
        config: the run.
        card: its data.
        devices: number of devices that a training batch is sharded over, which matters only for batch norm over single
            devices or groups of them; None if it is not trained.

    Raises:
        UsageError: if the network has fewer outputs than the data has classes, or other choices or the devices do not
            fit.
    """
    task = build_task(config, card)
    network = _network(config.model, task, card.image_shape, "model", devices)
    if getattr(task, "inputs", ("image",)) == ("image",):
        if config.other != OtherConfig():
            raise UsageError(f"other is of tasks of two inputs, such as task.kind contrastive, not of {task.kind}")
        return ResNet(network)
    if card.other is None:
        raise UsageError(
            f"task.kind {task.kind} takes examples of two inputs, image and other, and those of {config.data.source} "
            "have one: data.source pairs:LEFT+RIGHT makes pairs of two sources"
        )
    other = _network(config.other.model, task, card.other.shape, "other.model", devices)
    return two_towers(network, other, card.other.shape)


def _network(model: ModelSpec, task: Task, shape: tuple[int, ...], where: str, devices: int | None) -> ResNetConfig:
    """Return the choices of a network for inputs of a shape; ``where`` is its place in the configuration."""
    outputs, heads, dims = task.num_outputs, getattr(task, "heads", ("classifier",)), len(shape) - 1
    more = {"head_outputs": task.head_outputs} if isinstance(task, Multitask) else {}
    network = model.config(num_classes=outputs, in_channels=shape[-1], spatial_dims=dims, head=heads[0], **more)
    if network.head not in heads:
        raise UsageError(
            f"{where}.head {network.head} does not make what task.kind {task.kind} takes: use {either(list(heads))}"
        )
    if network.num_classes != outputs:
        raise UsageError(
            f"{where}.num_classes {network.num_classes} does not go with the task, which has {outputs} outputs: leave "
            "it out"
        )
    if network.spatial_dims != dims:
        raise UsageError(
            f"{where}.spatial_dims {network.spatial_dims} does not go with inputs of {dims} spatial dimensions: leave "
            "it out, and it is that of the data"
        )
    return network if devices is None else network.on_devices(devices)


def build_task(config: RunConfig, card: DatasetInfo) -> Task:
    """Return the task of a run's network.

    Raises:
        UsageError: for a kind that does not fit the labels, or a setting that it does not use.
    """
    facts = TaskFacts(
        label_kind=card.label_kind,  # pyright: ignore[reportArgumentType]  # a str, as JSON has it
        names=card.class_names,
        examples=card.examples.get("train", 0),
        counts=card.label_counts,
        mean=card.target_mean,
        std=card.target_std,
        outputs=config.model.changes.get("num_classes"),
        targets=card.targets,
    )
    task = make_task(config.task, facts)
    if isinstance(task, Multitask) and any(getattr(one, "mixes", False) for one in divide(config.data.augment).device):
        raise UsageError("mixup and cutmix of data.augment mix one label, and task.heads has several: leave them out")
    return task
