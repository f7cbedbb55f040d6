"""Defaults for data without a recipe: a configuration derived from what was found, with reasons.

The rules are those that a practitioner would start with. They consider only :class:`~resnet_jax.data.look.Findings`,
the machine, and the user's own choices, which the other choices follow: the learning rate follows a given batch size,
and the length follows a given network.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, assert_never

from resnet_jax.data.folds import parse_fold
from resnet_jax.data.look import Findings
from resnet_jax.models.count import count
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.config import RunConfig, config_to_dict
from resnet_jax.runs.default_augment import SMALL, usual_augment
from resnet_jax.runs.default_boxes import box_augment, box_network, box_size
from resnet_jax.runs.recipes import config_from_dict
from resnet_jax.training.duration import parse_duration

RECIPE = "auto"
"""The recipe name of a configuration chosen here."""
SIDES = (32, 64, 96, 128, 160, 224)
"""Sides in pixels that larger images are resized to."""
SIDE_ON_CPU = 128
LONG_SIGNAL = 1024
MANY = 100_000
"""Number of examples from which a larger network and more epochs pay off."""
FEW_PHOTOGRAPHS = 2_000
"""Number of images larger than :data:`SMALL` pixels below which a network trained from scratch learns little."""
MANY_CLASSES = 100
"""Number of classes from which the 64 features of a small network are too few."""
UPDATES, FEWEST_EPOCHS, MOST_EPOCHS, EPOCHS_OF_MANY = 2_000, 15, 60, 90
ELONGATED = 2.0
"""Aspect ratio from which the center square of an image loses too much."""
IMBALANCED, GREATEST_WEIGHT = 4.0, 20.0
ENOUGH_TO_SELECT = 100
"""Number of validation examples from which selecting the best state is meaningful."""
VALIDATIONS = 20
CPU_SECONDS = 3_600
"""The approximate maximum length of a run on CPUs, unless requested otherwise."""
MACS_A_SECOND = {1: 4e9, 2: 1e10, 3: 4e9}
"""Spatial dimensions -> multiply-adds per second of one CPU core in train steps; a guess to within a factor of 3."""
UPDATE_SECONDS = 0.01
"""The minimum time of an update."""
RESIZED = ("uint8", "uint16", "int16", "float32")
"""Dtypes in which images can be resized."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """The machine to train on.

    Attributes:
        cores: number of CPU cores; 0 with accelerators, whose speed is unknown here.
        devices: number of devices that a batch is sharded over.
    """

    cores: int = 0
    devices: int = 1

    @classmethod
    def here(cls) -> Machine:
        """Return this machine."""
        import os

        import jax

        on_cpu = jax.default_backend() == "cpu"
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(usable if on_cpu else 0, jax.device_count())


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A configuration with reasons.

    Attributes:
        config: the configuration, with recipe ``auto``.
        reasons: field, such as ``train.batch_size`` -> why it has its value. Fields that are not listed have their
            defaults.
    """

    config: RunConfig
    reasons: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _Division:
    """Numbers of training, validation and test examples."""

    train: int
    val: int
    values: dict[str, tuple[Any, str]]


def choose(found: Findings, machine: Machine | None = None, given: Mapping[str, Any] | None = None) -> Chosen:
    """Choose everything that a run needs.

    Args:
        found: the data, as returned by :func:`resnet_jax.data.look.look_at`.
        machine: the machine to train on (default: one accelerator).
        given: field, such as ``model.name`` -> the user's choice, as in YAML.

    Raises:
        UsageError: for a given value that no run can have.

    >>> from resnet_jax.data.look import look_at
    >>> chosen = choose(look_at("digits"))
    >>> chosen.config.model, chosen.config.train.batch_size, chosen.config.train.length
    (ModelSpec('resnet20_cifar'), 64, '60 epochs')
    >>> chosen.reasons["model.name"]
    'images of at most 64 pixels: a stem that keeps them, stride 4'
    """
    machine, given = machine or Machine(), dict(given or {})
    values: dict[str, Any] = {"recipe": RECIPE, "data.source": found.source}
    reasons: dict[str, str] = {}

    def settle(**rules: tuple[Any, str]) -> None:
        for name, (value, reason) in rules.items():
            field = name.replace("__", ".")
            values[field] = given.get(field, value)
            if reason or field in given:
                reasons[field] = "given" if field in given else reason

    several = "task.heads" in given
    settle(task__kind=("multitask", "several heads") if several else _task(found))
    if found.pixels == "stored":
        settle(data__pixels=("stored", f"files of {found.dtype}: 8 bits would lose information"))
    settle(data__image_size=_size(found, machine))
    boxes = found.label_kind == "boxes"
    if boxes and found.meaning == "image":
        settle(data__resize=box_size(found, machine.cores))
    shape = _shape(found, values["data.image_size"], values.get("data.resize"))
    network = _network(found, shape, given) | (box_network(machine.cores) if boxes else {})
    settle(**{name.replace(".", "__"): rule for name, rule in network.items()})
    resized = values["data.image_size"] is not None
    settle(data__augment=box_augment(found) if boxes else usual_augment(found, shape, resized))
    if len(shape) == 3 and min(shape[:2]) > SMALL and found.train_examples < FEW_PHOTOGRAPHS:
        settle(init_from=(None, f"{found.train_examples:,} are few for training from scratch: name a trained network"))
    division = _divide(found, given)
    settle(**{name.replace(".", "__"): rule for name, rule in division.values.items()})
    if found.label_kind == "class" and not several:
        balanced = given.get("data.balance") == "classes"
        weights = ("none", "classes are drawn equally often") if balanced else _weights(found, division)
        settle(task__class_weights=weights)
    settle(train__batch_size=_batch(division.train, machine))
    batch = max(int(values["train.batch_size"]), 1)
    per_epoch = max(division.train // batch, 1)
    model = {field.removeprefix("model."): v for field, v in {**values, **given}.items() if field.startswith("model.")}
    macs = 3 * batch * _multiply_adds(ModelSpec.from_dict(model), max(len(found.names), 1), shape)
    seconds = max(macs / MACS_A_SECOND[len(shape) - 1] / max(machine.cores, 1), UPDATE_SECONDS)
    settle(train__length=_length(found, per_epoch, seconds, machine))
    if _epochs(values["train.length"], per_epoch) > VALIDATIONS and per_epoch < 25:
        settle(train__validate_every=("5%", f"{VALIDATIONS} times: an epoch has {per_epoch} updates only"))
    settle(train__select=_select(division))
    for field, rule in _optimizer(found, batch, values, given).items():
        settle(**{field.replace(".", "__"): rule})
    return Chosen(with_values(RunConfig(recipe=RECIPE), {**values, **given}), reasons)


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return a configuration with other field values, checked.

    Args:
        config: the configuration.
        values: field, such as ``train.length`` -> value, as in YAML.

    Raises:
        UsageError: for an unknown field, or a value that it cannot have.

    >>> with_values(RunConfig(), {"train.length": "3 epochs", "model.name": "resnet18"}).model
    ModelSpec('resnet18')
    """
    raw = config_to_dict(config)
    for field, value in values.items():
        *path, name = field.split(".")
        functools.reduce(lambda tree, part: tree[part], path, raw)[name] = value
    return config_from_dict(raw, where="chosen")


def _task(found: Findings) -> tuple[str, str]:
    names = len(found.names)
    match found.label_kind:
        case "class":
            return "classification", f"one of {names:,} classes"
        case "multi-label":
            return "multilabel", f"each of {names:,} labels is present or absent"
        case "value":
            return "regression", f"{names:,} number{'s' if names > 1 else ''} to predict"
        case "segmentation":
            return "segmentation", f"every pixel is of one of {names:,} classes"
        case "boxes":
            return "detection", f"boxes of {names:,} classes"
        case _:
            assert_never(found.label_kind)


def _size(found: Findings, machine: Machine) -> tuple[int | None, str]:
    """Return the side that images are resized to, or None."""
    if found.meaning != "image" or found.label_kind == "boxes":
        return None, ""
    shape, (least, median, greatest) = found.shapes[0], found.side
    longer = sorted(max(one[:2]) / max(min(one[:2]), 1) for one in found.shapes)[len(found.shapes) // 2]
    if found.one_size:
        seen = f"all are {shape[0]}x{shape[1]}"
        if found.label_kind == "segmentation":
            return None, f"{seen}, the size at which classes of pixels are scored"
        if found.dtype not in RESIZED:
            return None, f"{seen}; {found.dtype} is not resized"
        if max(shape[:2]) <= SMALL:
            return None, f"{seen}, small enough as they are"
        if longer > ELONGATED and shape[0] * shape[1] <= SIDES[-1] ** 2:
            return None, f"{seen}; a square crop would lose their ends"
    else:
        seen = f"sides of {least} to {greatest} pixels, {median} the median"
    most = SIDE_ON_CPU if machine.cores else SIDES[-1]
    size = max((side for side in SIDES if side <= min(median, most)), default=max(min(median, SIDES[0]), 1))
    why = "at most, on a CPU" if machine.cores and size == most < median else ""
    ends = "; only the center of elongated ones" if longer > ELONGATED else ""
    return size, ", ".join(part for part in (seen, why) if part) + ends


def _shape(found: Findings, size: Any, resize: Any = None) -> tuple[int, ...]:
    """Return the shape that the network sees."""
    if resize is not None:
        return (*(int(side) for side in resize), found.channels)
    if size is not None and len(found.shapes[0]) == 3:
        return (int(size), int(size), found.channels)
    return tuple(found.shapes[0])


def _network(found: Findings, shape: tuple[int, ...], given: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return ``model.name`` and the changes to the network."""
    many, least = found.train_examples >= MANY, min(shape[:-1])
    if len(shape) == 4:
        name = "resnet18" if many else "resnet20_cifar"
        if least <= 16:
            return {"model.name": (name, "small volumes")}
        stem = ("imagenet", "a quarter of the positions per side, because volumes have many")
        chosen = {"model.name": (name, "few channels, because volumes are costly"), "model.stem": stem}
        return chosen if "model.name" not in given and not many else {"model.name": (name, "volumes")}
    if len(shape) == 2:
        if least > LONG_SIGNAL:
            return {"model.name": ("resnet18", f"signals of over {LONG_SIGNAL:,} values: stride 32")}
        return {"model.name": ("resnet20_cifar", f"signals of at most {LONG_SIGNAL:,} values: stride 4")}
    if least > SMALL:
        size = f"{least} pixels a side"
        return {"model.name": ("resnet50", f"{size} and {MANY:,} images or more") if many else ("resnet18", size)}
    if len(found.names) > MANY_CLASSES:
        stem = ("cifar", f"images of at most {SMALL} pixels: a stem that keeps them")
        chosen = {"model.name": ("resnet18", f"{len(found.names):,} classes need more than 64 features")}
        return chosen if "model.name" in given else {**chosen, "model.stem": stem}
    why = f"images of at most {SMALL} pixels: a stem that keeps them, stride 4"
    return {"model.name": ("resnet56_cifar" if many else "resnet20_cifar", why)}


def _divide(found: Findings, given: Mapping[str, Any]) -> _Division:
    """Return what is held out, as far as the classes allow."""
    values: dict[str, tuple[Any, str]] = {}
    total, splits = found.train_examples, set(found.examples)
    if {"val", "test"} <= splits:
        return _Division(total, found.examples["val"], values)
    counts = [number for number in found.counts if number] if found.label_kind == "class" else []
    spare = sum(number - 1 for number in counts) if counts else total - 1
    test = 0
    if "all" in splits:
        share, why = 0.2, "a fifth for the test"
        if spare < round(share * total) or round(share * total) < 1:
            share, why = max(spare, 1) / max(total, 2), f"{max(spare, 1)} are all that can be spared"
        share = min(float(given.get("data.test_fraction", share)), 0.9)
        values["data.test_fraction"] = (share, why if share != 0.2 else "")
        test = round(share * total)
    val = round(float(given.get("data.val_fraction", 0.1)) * total)
    if given.get("data.fold") is not None:
        val = round((total - test) / parse_fold(str(given["data.fold"]))[1])
    elif val < 1 or val + test > spare:
        val = 0
        values["data.val_fraction"] = (0.0, "too few examples to hold any out")
    else:
        values["data.val_fraction"] = (0.1, "")
    train, subset = total - val - test, float(given.get("data.subset") or 0)
    if subset:
        train = round(subset * train) if subset < 1 else min(train, int(subset) * max(len(counts), 1))
    return _Division(max(train, 1), val, values)


def _weights(found: Findings, division: _Division) -> tuple[str, str]:
    """Return ``task.class_weights``."""
    given = [number for number in found.counts if number]
    if found.imbalance < IMBALANCED or len(given) < len(found.counts):
        return "none", ""
    ratio, greatest = f"{max(given):,} to {min(given):,}", sum(given) / (len(given) * min(given))
    if greatest > GREATEST_WEIGHT or min(given) * division.train < 2 * sum(given):
        return "none", f"classes of {ratio}: balanced, the rarest would have weight {greatest:,.3g} and dominate"
    return "balanced", f"classes of {ratio} examples"


def _batch(examples: int, machine: Machine) -> tuple[int, str]:
    """Return ``train.batch_size``: a power of 2 that gives about twenty updates per epoch."""
    most = 256 if examples >= MANY else 128
    size = min(max(2 ** round(math.log2(max(examples / 20, 1))), 8), most, examples)
    if size % machine.devices:
        size = max(size // machine.devices, 1) * machine.devices
    return size, f"{examples // size:,} updates per epoch of {examples:,}"


def _length(found: Findings, per_epoch: int, seconds: float, machine: Machine) -> tuple[str, str]:
    """Return ``train.length``.

    Args:
        found: the data.
        per_epoch: updates per epoch.
        seconds: time of an update on its CPU.
        machine: the machine to train on.
    """
    epochs = min(max(round(UPDATES / per_epoch), FEWEST_EPOCHS), MOST_EPOCHS)
    epochs = EPOCHS_OF_MANY if found.train_examples >= MANY else epochs
    if not machine.cores:
        return f"{epochs} epochs", f"{epochs * per_epoch:,} updates"
    said = f"{epochs * per_epoch:,} updates, about {_time(epochs * per_epoch * seconds)} on {_cores(machine)}"
    affordable = int(CPU_SECONDS / seconds)
    if epochs * per_epoch <= affordable:
        return f"{epochs} epochs", said
    length = f"{affordable // per_epoch} epochs" if affordable >= per_epoch else f"{max(affordable, 100)} steps"
    steps = parse_duration(length).steps(per_epoch)
    return length, (
        f"{steps:,} updates, about {_time(steps * seconds)} on {_cores(machine)}; {epochs} epochs, as usual, would "
        f"take {_time(epochs * per_epoch * seconds)}"
    )


def _epochs(length: Any, per_epoch: int) -> float:
    return parse_duration(str(length)).steps(per_epoch) / per_epoch


def _cores(machine: Machine) -> str:
    return f"{machine.cores} core{'s' if machine.cores > 1 else ''}"


def _time(seconds: float) -> str:
    """Return a time in a single unit.

    >>> _time(5), _time(200), _time(7000), _time(800_000)
    ('5 s', '3 min', '2 h', '9 days')
    """
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


@functools.lru_cache
def _multiply_adds(model: ModelSpec, outputs: int, shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of one forward pass per example."""
    network = model.config(num_classes=outputs, in_channels=shape[-1], spatial_dims=len(shape) - 1)
    return count(ResNet(network), shape).macs


def _select(division: _Division) -> tuple[str, str]:
    """Return ``train.select``."""
    if division.val >= ENOUGH_TO_SELECT:
        return "best", f"{division.val:,} examples to validate on"
    return "last", f"{division.val:,} to validate on are too few to select by"


def _optimizer(
    found: Findings, batch: int, values: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, tuple[Any, str]]:
    """Return the fields of ``optim``: SGD with a rate that fits the batch size, or what fits the given choices."""
    name = given.get("optim.name", "adamw" if found.label_kind == "boxes" else "sgd")
    rules: dict[str, tuple[Any, str]] = {"optim.name": (name, "")}
    if name == "sgd":
        small = values["model.name"].endswith("_cifar")
        targets = found.label_kind == "value"  # squared errors curve by 2 (1 + |features|^2), far above a softmax
        whole, why = (0.01, "for batches of 128, a tenth as for classes") if targets else (0.1, "for batches of 128")
        rules["optim.learning_rate"] = (float(f"{whole * batch / 128:.4g}"), f"{whole:g} {why}")
        if targets:
            rules["optim.clip_norm"] = (1.0, "robust to outliers")
        rules["optim.momentum"], rules["optim.nesterov"] = (0.9, ""), (True, "")
        rules["optim.weight_decay"] = (5e-4 if small else 1e-4, "")
    else:
        rules["optim.learning_rate"] = (0.001, f"usual for {name}")
    kind = given.get("optim.schedule.kind", "cosine")
    rules["optim.schedule.kind"] = (kind, "after 5 % of warm-up" if kind == "cosine" else "")
    if kind != "onecycle":
        rules["optim.schedule.warmup"] = ("5%", "")
    return rules
