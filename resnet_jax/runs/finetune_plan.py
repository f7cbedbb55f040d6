"""The plan for fine-tuning a network on a data set: every choice with its reason, derived from network and data.

The choices are those of :mod:`resnet_jax.runs.defaults` for the data (split, batch size, augmentation, class weights),
and here those that a pre-trained network changes: its own image size, channels and normalization are kept, learning
rates are smaller and the length is shorter. The head is trained first, on the frozen network, because a new classifier
would otherwise send large, useless gradients through features that are already good (Kumar et al. 2022, arXiv
2202.10054). The user's own choices override all of this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from resnet_jax.data.classes import are_numbers
from resnet_jax.data.look import Findings
from resnet_jax.errors import UsageError
from resnet_jax.runs.bit import bit_rule
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.default_augment import SMALL
from resnet_jax.runs.defaults import Machine, choose, with_values
from resnet_jax.runs.finetune import same_order
from resnet_jax.runs.finetune_how import ADAPTIVE_RATE, HowToFinetune, without_choices
from resnet_jax.runs.trained import TrainedRun
from resnet_jax.tasks.facts import SAID_OF_KIND
from resnet_jax.training.config import TrainConfig

RECIPE = "finetune"
"""The recipe name of a configuration made here."""
RATE, KNOWN_RATE = 0.05, 0.01
"""Learning rates of the whole network, for SGD with batches of 128: for new classes, and for known classes or frozen
batch norm, where nothing would bring activations back to scale (of 3 seeds on 180 cells, one was thrown off by the
larger rate)."""
STEM_SHARE = 1 / 3
"""Learning rate of the stem relative to that of the classifier; rates grow from block to block in between."""
UPDATES, FEWEST_EPOCHS, MOST_EPOCHS = 1_000, 5, 30
FEW_A_BATCH = 16
"""Batch size below which batch statistics are too noisy to normalize with."""
VALIDATIONS = 20


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What the network will see, before the images are split: everything a probe needs.

    Attributes:
        config: the configuration with all choices for the data; its optimizer and length are those for training from
            scratch.
        forced: field -> value, required by the pre-trained network.
        reasons: field -> reason, for the choices that are reported.
    """

    config: RunConfig
    forced: dict[str, Any]
    reasons: dict[str, str]


def look_ahead(
    source: TrainedRun, found: Findings, how: HowToFinetune, given: Mapping[str, Any], machine: Machine | None = None
) -> Outlook:
    """Choose what depends on data and network: classes, channels, size, normalization, network, batch size, split.

    Args:
        source: the pre-trained network.
        found: the data.
        how: how to fine-tune.
        given: field, such as ``train.length`` -> the user's choice, as in YAML.
        machine: the machine to train on (default: one accelerator).

    Raises:
        UsageError: if the network cannot take the data; the message names both.
    """
    if found.label_kind != "class":
        raise UsageError(
            f"{found.source} has {SAID_OF_KIND[found.label_kind]}; finetune is for classes. Of other labels: "
            f"resnet-jax train --data {found.source} --init-from {source.path} --init-head new"
        )
    if (kind := given.get("task.kind")) not in (None, "classification"):
        raise UsageError(f"finetune is for task.kind classification, and {kind} is given: train --init-from takes it")
    if (name := given.get("model.name", source.config.model.name)) != source.config.model.name:
        raise UsageError(
            f"{source.path} is a {source.config.model.name} and cannot start {name}: leave model.name out; choices "
            "that change no shape, such as model.norm_scope, can be given"
        )
    rules: dict[str, tuple[Any, str]] = {}
    seen = _inputs(source, found, given, rules)
    changes = {k: v for k, v in source.config.model.changes.items() if k not in ("num_classes", "in_channels")}
    forced = {"model.name": name, **{f"model.{key}": value for key, value in changes.items()}}
    rules["init_from"] = (str(source.path), f"{name} after step {source.step:,}")
    rules["init_head"] = _head(source, found)
    if how.method == "bit":
        rules["model.head_init"] = ("zeros", "BiT: the classifier begins at zero")
        rules["init_head"] = ("new", "BiT: a new classifier, also for classes that it knows")
    if how.method == "bit" and len(set(source.card.image_shape[:-1])) == 1:
        rules["data.image_size"] = bit_size(source.card.image_shape[0], found, rules["data.image_size"])
    forced |= {field: value for field, (value, _) in rules.items()}
    of_data = {field: value for field, value in given.items() if not field.startswith("optim.")}
    chosen = choose(seen, machine or Machine(), {**forced, **of_data})
    config = with_values(chosen.config, {"recipe": RECIPE})
    _require_size(config, source, found)
    reasons = {field: reason for field, reason in chosen.reasons.items() if not field.startswith(("optim.", "model."))}
    reasons |= {field: reason for field, (_, reason) in rules.items() if reason}
    reasons |= dict.fromkeys(given, "given")
    return Outlook(config, {field: value for field, value in forced.items() if field not in given}, reasons)


def _inputs(
    source: TrainedRun, found: Findings, given: Mapping[str, Any], rules: dict[str, tuple[Any, str]]
) -> Findings:
    """Determine size, channels and normalization; return the data with the channels that the network will see."""
    shape, stored = source.card.image_shape, found.shapes[0]
    if len(stored) != len(shape):
        raise UsageError(
            f"{source.path} takes {'x'.join(map(str, shape))}, and the examples of {found.source} are {found.meaning}s "
            f"of {'x'.join(map(str, stored))}: they have another number of dimensions"
        )
    if found.dtype != source.card.image_dtype:
        raise UsageError(
            f"{source.path} was trained on {source.card.image_dtype}, and {found.source} holds {found.dtype}: its "
            "normalization is not that of these values; give it the same kind"
        )
    channels, own_channels = stored[-1], shape[-1]
    stem = given.get("init_stem", "exact")
    if channels != own_channels and stem == "exact":
        if not ({channels, own_channels} <= {1, 3} and found.dtype == "uint8"):
            raise UsageError(
                f"{source.path} takes {own_channels} channels, and {found.source} has {channels}: init_stem mean "
                "averages its first convolution over them"
            )
        done = "grey repeated in the 3 channels" if own_channels == 3 else "color converted to the gray"
        rules["model.in_channels"] = (own_channels, f"{done} that the network takes")
        channels = own_channels
        found = dataclasses.replace(found, shapes=tuple((*one[:-1], channels) for one in found.shapes))
    if channels == own_channels and "data.mean" not in given:
        if not source.card.mean:
            raise UsageError(f"{source.path} does not say how its images are normalized: give data.mean and data.std")
        rules["data.mean"] = (list(source.card.mean), "as the network was trained")
        rules["data.std"] = (list(source.card.std), "")
    sides = shape[:-1]
    if found.one_size and found.shapes[0][:-1] == sides:
        rules["data.image_size"] = (None, f"all are {'x'.join(map(str, sides))}, the network's own size")
    elif len(sides) == 2 and sides[0] == sides[1]:
        least, _, most = found.side
        change = "enlarged" if most < sides[0] else "reduced" if least > sides[0] else "resized"
        was = f"{least}" if least == most else f"{least} to {most}"
        rules["data.image_size"] = (sides[0], f"the network's own; images of {was} pixels are {change}")
    else:
        raise UsageError(
            f"{source.path} takes exactly {'x'.join(map(str, sides))}, which is not square, and {found.source} has "
            f"{'x'.join(map(str, found.shapes[0][:-1]))}: no rule brings one to the other"
        )
    return found


def _require_size(config: RunConfig, source: TrainedRun, found: Findings) -> None:
    """Reject images that the network would shrink to less than one position.

    Raises:
        UsageError: if they are too small; the message has the stride of the network.
    """
    stride, size = source.model.config.own_stride, config.data.image_size
    least = found.side[0] if size is None else size
    if least < stride:
        own = source.card.image_shape[0]
        raise UsageError(
            f"images of {least} pixels are too small for {source.path}: its last map has a position for every {stride} "
            f"pixels; bring them to more with data.image_size, such as the network's own {own}"
        )


def _head(source: TrainedRun, found: Findings) -> tuple[str, str]:
    """Return ``init_head``: the classifier is kept if every class of the data is known to be its own output."""
    old, new = source.card.class_names, found.names
    if source.model.config.num_classes != len(new) or len(old) != len(new) or same_order(new, old) is None:
        return "new", f"{len(new)} classes, which the network does not have: the linear probe's"
    if are_numbers(old) and are_numbers(new) and not source.was_trained_here:
        return "new", "of the classes only numbers are known: the linear probe's"
    return "exact", f"the network knows these {len(new)} classes: its classifier is kept"


@dataclasses.dataclass(frozen=True)
class FinetunePlan:
    """Everything the stages are made of.

    Attributes:
        config: the configuration for the whole network; its length is that of all stages together.
        scratch: the configuration of the same network from scratch, with the same batches and number of updates.
        steps_per_epoch: updates per epoch.
        reasons: field -> reason, for the choices that are reported.
    """

    config: RunConfig
    scratch: RunConfig
    steps_per_epoch: int
    reasons: dict[str, str]

    @property
    def steps(self) -> int:
        """Number of updates of all stages together."""
        return self.config.train.total_steps(self.steps_per_epoch)


def make_plan(outlook: Outlook, examples: int, how: HowToFinetune, given: Mapping[str, Any]) -> FinetunePlan:
    """Choose batch size, length and optimizer for this number of training examples.

    Args:
        outlook: as returned by :func:`look_ahead`.
        examples: number of training examples, after validation and test are held out.
        how: how to fine-tune.
        given: the user's choices.

    Raises:
        UsageError: for a value that no run can have.
    """
    config, reasons = outlook.config, dict(outlook.reasons)
    rules = _bit(config, examples, given) if how.method == "bit" else _usual(config, examples, given)
    values = {
        "optim": {"name": "sgd", "schedule": {}},
        **{field: value for field, (value, _) in rules.items()},
        **given,
    }
    config = with_values(config, values)
    reasons |= {field: reason for field, (_, reason) in rules.items() if reason and field not in given}
    scratch: dict[str, Any] = {
        "init_from": None, "init_head": "exact", "init_stem": "exact", "init_bands": [],
        "init_inflate": "none",
        "train.length": config.train.length, "train.limit": config.train.limit,
        "train.batch_size": config.train.batch_size, "train.validate_every": config.train.validate_every,
        "data.augment": list(config.data.augment),
    }  # fmt: skip
    scratch |= {field: [] for field in ("data.mean", "data.std") if field not in given}
    per_epoch = max(examples // config.train.batch_size, 1)
    ratio = config.train.batch_size / outlook.config.train.batch_size
    scratch["optim.learning_rate"] = float(f"{outlook.config.optim.learning_rate * ratio:.4g}")
    bare = with_values(outlook.config, scratch)
    if "model.head_init" not in given and how.method == "bit":
        bare = dataclasses.replace(bare, model=without_choices(bare.model, "head_init"))
    return FinetunePlan(config, bare, per_epoch, reasons)


def _usual(config: RunConfig, examples: int, given: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return length and optimizer of ``full`` and ``linear``."""
    batch, network = config.train.batch_size, config.model.config()
    rules: dict[str, tuple[Any, str]] = {}
    if network.norm == "batch" and batch < FEW_A_BATCH <= examples and "train.batch_size" not in given:
        batch = FEW_A_BATCH
        rules["train.batch_size"] = (batch, "at least: its statistics normalize")
    per_epoch = max(examples // batch, 1)
    if "train.length" not in given:
        epochs = min(max(round(UPDATES / per_epoch), FEWEST_EPOCHS), MOST_EPOCHS)
        affordable = config.train.total_steps(per_epoch)
        if affordable < epochs * per_epoch:
            rules["train.length"] = (config.train.length, "as much as this CPU can do in about an hour")
        else:
            rules["train.length"] = (f"{epochs} epochs", f"{epochs * per_epoch:,} updates: it already knows most")
    frozen = network.norm == "batch" and batch < FEW_A_BATCH
    if frozen:
        why = f"batches of {batch} are too few to normalize by: the network's own statistics are kept"
        rules["model.norm_scope"] = ("frozen", why)
    rules |= _validations(config, per_epoch, given, rules)
    name = given.get("optim.name", "sgd")
    if name == "sgd":
        known = config.init_head == "exact"
        small = "for classes that it knows" if known else "its statistics being frozen"
        whole, why = (KNOWN_RATE, small) if known or frozen else (RATE, "half of that from scratch")
        rules["optim.learning_rate"] = (float(f"{whole * batch / 128:.4g}"), f"{whole:g} for batches of 128, {why}")
        rules |= {"optim.momentum": (0.9, ""), "optim.nesterov": (True, "")}
    else:
        rules["optim.learning_rate"] = (ADAPTIVE_RATE, f"a tenth of what is usual for {name}")
    rules["optim.weight_decay"] = (1e-4, "")
    decay = round(STEM_SHARE ** (1 / (network.num_blocks + 1)), 3)
    rules["optim.layer_decay"] = (decay, f"the stem, {network.num_blocks + 1} below the classifier, at a third of it")
    kind = given.get("optim.schedule.kind", "cosine")
    rules["optim.schedule.kind"] = (kind, "after 10 % of warm-up" if kind != "onecycle" else "")
    if kind != "onecycle":
        rules["optim.schedule.warmup"] = ("10%", "")
    return rules


def _bit(config: RunConfig, examples: int, given: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return everything that BiT's rule determines."""
    rule = bit_rule(examples, (1, 1))  # the size is settled: `bit_size`
    most = min(rule.batch_size, 2 ** (examples.bit_length() - 1))
    batch = int(given.get("train.batch_size", most))
    scaled = rule.with_batch(batch)
    why = "BiT" if batch == rule.batch_size else f"BiT has {rule.batch_size}"
    rules: dict[str, tuple[Any, str]] = {"train.batch_size": (batch, f"{why}; {examples:,} examples")}
    of_batch = "" if batch == rule.batch_size else f", as many examples as {rule.steps:,} batches of {rule.batch_size}"
    rules["train.length"] = (f"{scaled.steps} steps", f"BiT: a {rule.task} task{of_batch}")
    rules["optim.learning_rate"] = (scaled.learning_rate, "BiT: 0.003 for 512 examples")
    rules |= {"optim.momentum": (rule.momentum, ""), "optim.nesterov": (False, "")}
    rules["optim.weight_decay"] = (rule.weight_decay, "BiT: none")
    if "optim.schedule.kind" not in given:
        rules["optim.schedule.kind"] = ("multistep", "BiT: a tenth at 30, 60 and 90 %")
        rules["optim.schedule.milestones"] = (list(rule.milestones), "")
        rules["optim.schedule.factor"] = (0.1, "")
        rules["optim.schedule.warmup"] = (f"{100 * rule.warmup / rule.steps:g}%", "BiT, as its authors' code has it")
    if rule.mixup:
        augment = [*config.data.augment, f"mixup({rule.mixup:g})"]
        rules["data.augment"] = (augment, f"BiT: mixup of {rule.mixup:g} from 20,000 examples on")
    per_epoch = max(examples // batch, 1)
    return rules | _validations(config, per_epoch, given, rules)


def bit_size(side: int, found: Findings, own: tuple[int | None, str]) -> tuple[int | None, str]:
    """Return the image side by BiT's rule, and why, for a network of large images; otherwise the network's own side.

    Args:
        side: side of the network's own images in pixels.
        found: the data.
        own: the side derived from the network's own size, and why.

    >>> from resnet_jax.data.look import look_at
    >>> bit_size(32, look_at("digits"), (32, ""))[0], bit_size(224, look_at("digits"), (224, ""))[0]
    (32, 128)
    """
    median = found.side[1]
    crop = bit_rule(max(found.train_examples, 1), (median, median)).crop
    if side <= SMALL:
        return own[0], f"{own[1]}; BiT's {crop} are for networks of large images"
    return crop, f"BiT: images of {median} pixels"


def _validations(
    config: RunConfig, per_epoch: int, given: Mapping[str, Any], rules: Mapping[str, tuple[Any, str]]
) -> dict[str, tuple[Any, str]]:
    """Return ``train.validate_every``, if an epoch is too short to validate after each."""
    length = given.get("train.length", rules.get("train.length", (config.train.length, ""))[0])
    epochs = TrainConfig(length=str(length)).total_steps(per_epoch) / per_epoch
    if "train.validate_every" in given or epochs <= VALIDATIONS:
        return {}
    return {"train.validate_every": ("5%", f"{VALIDATIONS} times, not after each of {epochs:,.0f} epochs")}
