"""Options that can be array values: numbers in which the members of one compiled population can differ.

A step is built while it is traced, from the objects of a run (optimizer, network, task, averages, device transforms),
with traced scalars in place of some of their numbers (:func:`resnet_jax.fields.unchecked`). Options that determine
shapes, the number of things, or what the host does cannot be array values.

An option within ``data.augment`` is written ``data.augment.TRANSFORM.ARGUMENT``, such as ``data.augment.mixup.alpha``.
Each transform defines which of its arguments can be array values (``carried``); never those of host transforms, nor
integers that are shapes (``pad``, ``side``, ``width``, ``n``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from resnet_jax.data.mix import beta_quantiles
from resnet_jax.data.transforms import DeviceTransform, divide, parse_transform, transform_name, write_transform
from resnet_jax.errors import UsageError, unknown
from resnet_jax.fields import unchecked
from resnet_jax.models.config import ResNetConfig
from resnet_jax.runs.config import RunConfig, config_to_dict
from resnet_jax.runs.recipes import config_from_dict
from resnet_jax.tasks.classification import LOSS_PARAMETERS
from resnet_jax.tasks.losses import SMOOTHED
from resnet_jax.training.optimizers import OPTIMIZERS
from resnet_jax.training.options import Averaging, OptimConfig
from resnet_jax.training.schedules import SCHEDULES

_AUGMENT = "data.augment."
#: Options whose None, "does not clip", is represented as infinity in an array.
_INFINITE = ("optim.clip_norm", "optim.agc")
_OF_OPTIMIZER = ("momentum", "b1", "b2", "eps", "decay", "trust_coefficient")
_OF_SCHEDULE = ("warmup_start_factor", "end_value", "power", "div_factor", "final_div_factor")
_OF_LOSS = tuple(name for name in LOSS_PARAMETERS if name != "sce_floor")

#: Alphas of Beta(alpha, alpha), which are represented by their quantiles; and all arguments that disable a part of a
#: transform at 0, which decides what is compiled.
_ALPHAS = frozenset({("mixup", "alpha"), ("cutmix", "alpha"), ("mix", "mixup"), ("mix", "cutmix")})
_PARTS = _ALPHAS | {("colour_jitter", name) for name in ("brightness", "contrast", "saturation", "hue")}

#: Option -> when it can be an array value.
CARRIED: Mapping[str, str] = MappingProxyType(
    {
        "seed": "always, without being named: initialization, order of the images, augmentation, dropout",
        "optim.learning_rate": "always",
        **{f"optim.{name}": "of optimizers that have it" for name in _OF_OPTIMIZER},
        "optim.weight_decay": "not by timm's convention, where 0 is another optimizer",
        "optim.l1": "always",
        "optim.clip_norm": "always; infinity does not clip",
        "optim.agc": "always; infinity does not clip",
        **{f"optim.schedule.{name}": "of schedules that have it" for name in _OF_SCHEDULE},
        "task.label_smoothing": f"of the losses {' and '.join(SMOOTHED)}",
        **{f"task.{name}": f"of loss {LOSS_PARAMETERS[name]}" for name in _OF_LOSS},
        "task.huber_delta": "of loss huber",
        "model.dropout": "always",
        "model.head_dropout": "always",
        "model.drop_path": "always",
        "train.ema.decay": "where there are exponential moving averages",
        f"{_AUGMENT}TRANSFORM.ARGUMENT": "of a transform of the device that is listed once, and says that it can; an "
        "argument that turns it off at 0 or None only where it is on, and not to 0",
    }
)


def carries(config: RunConfig, option: str) -> bool:
    """Return whether the members of a population of ``config`` can differ in a dotted option.

    >>> [carries(RunConfig(), f"optim.{name}") for name in ("learning_rate", "momentum", "b1", "nesterov")]
    [True, True, False, False]
    """
    return why_not(config, option) is None


def carried_options(config: RunConfig) -> list[str]:
    """Return the options in which the members of a population of ``config`` can differ, in order."""
    found = [option for option in CARRIED if not option.startswith(_AUGMENT)]
    for transform in divide(config.data.augment).device:
        word = transform_name(transform)
        found += [f"{_AUGMENT}{word}.{argument}" for argument in getattr(transform, "carried", ())]
    return [option for option in found if carries(config, option)]


def why_not(config: RunConfig, option: str) -> str | None:
    """Return why an option cannot be an array value for a configuration, or None if it can."""
    if option.startswith(_AUGMENT):
        return _not_of_augment(config, option)
    if option not in CARRIED:
        return "it decides what is compiled, or what the host does"
    optim, schedule, loss = config.optim, config.optim.schedule, config.task.loss
    section, _, name = option.rpartition(".")
    if section == "optim" and name in _OF_OPTIMIZER and name not in OPTIMIZERS[optim.name].defaults:
        return f"{optim.name} does not use it"
    if section == "optim.schedule" and name not in SCHEDULES[schedule.kind].defaults:
        return f"schedule {schedule.kind} does not use it"
    if option == "optim.weight_decay" and optim.convention == "timm":
        return "by optim.convention timm a weight decay of 0 is another optimizer"
    if option == "task.label_smoothing" and (loss or SMOOTHED[0]) not in SMOOTHED:
        return f"loss {loss} has none"
    if section == "task" and (wanted := {**LOSS_PARAMETERS, "huber_delta": "huber"}.get(name, loss)) != loss:
        return f"it is of task.loss {wanted}"
    if option == "train.ema.decay" and (config.train.ema.kind != "ema" or config.train.ema.decay is None):
        return "there are no exponential moving averages: set train.ema.decay"
    return None


def _not_of_augment(config: RunConfig, option: str) -> str | None:
    try:
        transform, argument = _transform_of(config.data.augment, option)
    except UsageError as error:
        return str(error).removeprefix(f"{option}: ")
    word = transform_name(transform)
    if transform.where != "device":
        return f"{word} is done on the host"
    if argument not in getattr(transform, "carried", ()):
        known = ", ".join(getattr(transform, "carried", ()))
        return f"of {word} arrays carry {known}" if known else f"arrays carry no argument of {word}"
    value = getattr(transform, argument)
    if value is None or (value == 0 and (word, argument) in _PARTS):
        return f"{word} has no {argument} here, which leaves a part of it out"
    return None


def with_options(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return a configuration with other options, checked as usual.

    Args:
        config: the run.
        values: numbers by dotted option, including ``data.augment.TRANSFORM.ARGUMENT``; infinity means no clipping.

    Raises:
        UsageError: if there is no such option, or it cannot have the value.

    >>> with_options(RunConfig(), {"optim.learning_rate": 0.2, "seed": 3}).optim.learning_rate
    0.2
    """
    raw = config_to_dict(config)
    for option, value in values.items():
        if option.startswith(_AUGMENT):
            raw["data"]["augment"] = _augment_with(raw["data"]["augment"], option, value)
            continue
        *path, name = option.split(".")
        part = raw
        for step in path:
            part = part[step]
        part[name] = None if option in _INFINITE and value == math.inf else value
    return config_from_dict(raw, where="options")


def _augment_with(texts: Sequence[str], option: str, value: Any) -> list[str]:
    found, argument = _transform_of(texts, option)
    changed = dataclasses.replace(found, **{argument: value})
    return [write_transform(changed if transform == found else transform) for transform in map(parse_transform, texts)]


def _transform_of(texts: Sequence[str], option: str) -> tuple[Any, str]:
    """Return the transform of ``data.augment`` that an option names, and the argument.

    Raises:
        UsageError: if it does not occur exactly once, or has no such argument.
    """
    word, _, argument = option.removeprefix(_AUGMENT).partition(".")
    found: list[Any] = [each for each in map(parse_transform, texts) if transform_name(each) == word]
    if len(found) != 1:
        raise UsageError(
            f"{option}: data.augment has {word} {len(found)} times, not once: {', '.join(texts) or 'empty'}"
        )
    if argument not in (known := [field.name for field in dataclasses.fields(found[0])]):
        raise unknown(f"argument of {word}", argument, known)
    return found[0], argument


def values_of(configs: Sequence[RunConfig], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the values of array-valued options in configurations, float64 (configurations,) each.

    An unset option has the value it stands for: the optimizer's default, the named network's choice, infinity for no
    clipping.

    >>> values_of([RunConfig()], ["optim.learning_rate", "optim.momentum", "model.dropout", "optim.clip_norm"])
    {'optim.learning_rate': array([0.1]), 'optim.momentum': array([0.9]), 'model.dropout': array([0.]), \
'optim.clip_norm': array([inf])}
    """
    return {name: np.array([_value_of(config, name) for config in configs], np.float64) for name in names}


def _value_of(config: RunConfig, option: str) -> float:
    if option.startswith(_AUGMENT):
        found, argument = _transform_of(config.data.augment, option)
        return getattr(found, argument)
    section, _, name = option.rpartition(".")
    if section == "model":
        return getattr(config.model.config(), name)
    value: Any = config
    for part in option.split("."):
        value = getattr(value, part)
    if value is not None:
        return value
    if section == "optim.schedule":
        return SCHEDULES[config.optim.schedule.kind].defaults[name]
    if option in _INFINITE:
        lamb = option == "optim.clip_norm" and config.optim.name == "lamb" and config.optim.convention == "timm"
        return 1.0 if lamb else math.inf
    return OPTIMIZERS[config.optim.name].defaults[name]


def encoded(option: str, values: np.ndarray) -> np.ndarray:
    """Return values (K,) as the compiled step takes them: float32 (K,), or (K, Q), the quantiles of mixing."""
    word, _, argument = option.removeprefix(_AUGMENT).partition(".")
    if option.startswith(_AUGMENT) and (word, argument) in _PARTS and not (values > 0).all():
        raise UsageError(
            f"{option} must be positive for every member, got {values.min():g}: at 0 a part of {word} is left out, "
            "which is another program"
        )
    if option.startswith(_AUGMENT) and (word, argument) in _ALPHAS:
        return np.stack([beta_quantiles(float(value)) for value in values])
    return values.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Ingredients:
    """The objects whose fields are the numbers of a step.

    Attributes:
        optim: the optimizer.
        model: the network.
        task: what the outputs mean.
        averaging: averaging of the parameters; None for none.
        transforms: the device transforms.
    """

    optim: OptimConfig
    model: ResNetConfig
    task: Any
    averaging: Averaging | None
    transforms: tuple[DeviceTransform, ...]

    def with_values(self, values: Mapping[str, jax.Array]) -> Ingredients:
        """Return a copy with traced values by dotted option, in the form :func:`encoded` returns for one lane."""
        changed = self
        for option, value in values.items():
            section, _, name = option.rpartition(".")
            changed = _CHANGES[section if section in _CHANGES else _AUGMENT](changed, option, {name: value})
        return changed


def _transformed(old: Ingredients, option: str, change: dict[str, Any]) -> Ingredients:
    word = option.removeprefix(_AUGMENT).partition(".")[0]
    changed = tuple(unchecked(each, **change) if transform_name(each) == word else each for each in old.transforms)
    return dataclasses.replace(old, transforms=changed)


_Change = Callable[[Ingredients, str, dict[str, Any]], Ingredients]
_CHANGES: Mapping[str, _Change] = MappingProxyType(
    {
        "optim": lambda old, _, new: dataclasses.replace(old, optim=unchecked(old.optim, **new)),
        "optim.schedule": lambda old, _, new: dataclasses.replace(
            old, optim=unchecked(old.optim, schedule=unchecked(old.optim.schedule, **new))
        ),
        "task": lambda old, _, new: dataclasses.replace(old, task=unchecked(old.task, **new)),
        "model": lambda old, _, new: dataclasses.replace(old, model=unchecked(old.model, **new)),
        "train.ema": lambda old, _, new: dataclasses.replace(old, averaging=unchecked(old.averaging, **new)),
        _AUGMENT: _transformed,
    }
)
