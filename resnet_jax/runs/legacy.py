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


def _own_loss(value: Any) -> Any:
    """Return a loss of classification as ``task.loss``: cross-entropy is its default, and says nothing."""
    return None if value == "cross_entropy" else value


@dataclasses.dataclass(frozen=True)
class Moved:
    """One option that has another name, or other values, than before.

    Attributes:
        new: its dotted name today.
        value: from the old value to the new one.
    """

    new: str
    value: Callable[[Any], Any] = _same


#: Dotted old name -> what became of it.
MOVED: dict[str, Moved] = {
    "train.loss": Moved("task.loss", _own_loss),
    "train.label_smoothing": Moved("task.label_smoothing"),
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
