"""Options as they were spelled before: read in recipes and run directories, and on the command line.

A spelling that moved is a row of :data:`MOVED`. It is translated wherever it is met, so that recipes and run
directories of before still load.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from resnet_jax.errors import UsageError


def _same(value: Any) -> Any:
    return value


@dataclasses.dataclass(frozen=True)
class Moved:
    """One option that has another name, or other values, than before.

    Attributes:
        new: its dotted name today.
        value: from the old value to the new one.
    """

    new: str
    value: Callable[[Any], Any] = _same


def _in(unit: str, none: tuple[Any, ...] = ()) -> Callable[[Any], Any]:
    """Return what makes a length of a number that was so many of a unit; None of None, and of what meant none."""

    def value(old: Any) -> Any:
        if old is None or old in none:
            return None
        return f"{old} {unit}" if isinstance(old, (int, float)) or unit == "epochs" else old

    return value


#: Dotted old name -> what became of it.
MOVED: dict[str, Moved] = {
    "train.epochs": Moved("train.length", _in("epochs")),
    "train.max_steps": Moved("train.limit", _in("steps")),
    "train.eval_every": Moved("train.validate_every", _in("epochs")),
    "train.log_every": Moved("train.log_every", _in("steps")),
    "train.depth_every": Moved("train.depth_every", _in("steps", none=(0,))),
    "train.ema_decay": Moved("train.ema.decay"),
    "train.ema_warmup": Moved("train.ema.warmup"),
    "train.ema_warmup_gamma": Moved("train.ema.gamma"),
    "train.ema_warmup_power": Moved("train.ema.power"),
    "train.ema_min_decay": Moved("train.ema.min_decay"),
    "train.ema_update_after": Moved("train.ema.update_after"),
    "train.ema_statistics": Moved("train.ema.statistics"),
    "train.loss_scale": Moved("train.loss_scale.initial"),  # it is a section now, and so is early_stopping
    "train.loss_scale_growth_every": Moved("train.loss_scale.growth_every"),
    "train.early_stopping": Moved("train.early_stopping.patience"),
}


def upgrade(raw: Mapping[str, Any], *, where: str, moved: Mapping[str, Moved] | None = None) -> dict[str, Any]:
    """Return nested dictionaries with every old spelling replaced by today's.

    Args:
        raw: a configuration as it was written.
        where: what to call it in messages.
        moved: the table (default: :data:`MOVED`).

    Raises:
        UsageError: an option is given in both spellings.

    >>> upgrade({"train": {"loss": "bce"}}, where="x", moved={"train.loss": Moved("task.loss")})
    {'train': {}, 'task': {'loss': 'bce'}}
    """
    config = _copied(raw)
    for old, move in (MOVED if moved is None else moved).items():
        *path, name = old.split(".")
        section: Any = config
        for key in path:
            section = section.get(key) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name not in section:
            continue
        if isinstance(section[name], dict) and move.new.startswith(f"{old}."):
            continue  # the section of today, which has the old option's name
        value = move.value(section.pop(name))
        *path, name = move.new.split(".")
        target = config
        for key in path:
            target = target.setdefault(key, {})
        if name in target:
            raise UsageError(f"{where}: {old} is the old name of {move.new}, and both are given")
        target[name] = value
    return config


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
