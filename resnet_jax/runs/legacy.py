"""Former spellings of options: accepted in recipes and run directories, and on the command line.

A spelling that has changed is a row of :data:`MOVED`, the only table of them. It is translated wherever it occurs, so
that older recipes, run directories and commands still work, or are rejected with today's spelling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, assert_never

import yaml

from resnet_jax.errors import UsageError
from resnet_jax.runtime.plain_yaml import load_yaml


class Nothing:
    """What a conversion returns if the old value needs no new one, such as ``max_steps: null``."""


NOTHING = Nothing()


def _same(value: Any) -> Any:
    return value


def _own_loss(value: Any) -> Any:
    """Return a loss of classification as ``task.loss``; cross-entropy is the default and is left out."""
    return None if value == "cross_entropy" else value


@dataclasses.dataclass(frozen=True)
class Moved:
    """An option that had another name, or other values, in the past.

    Attributes:
        new: its dotted name today; the old one if only the values have changed, or a field of a section that has the
            old name.
        value: converts the old value, as in YAML, to the new one, or to :data:`NOTHING`. On the command line it
            receives the typed text parsed as YAML, item by item for a comma-separated list.
        typed: how the old option was typed: with one ``value``, with a ``tuple`` of words, or as a ``switch``.
        join: combines the new value that another old spelling has produced with this one; None: two of them contradict
            each other.
    """

    new: str
    value: Callable[[Any], Any] = _same
    typed: Literal["value", "tuple", "switch"] = "value"
    join: Callable[[Any, Any], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Refused:
    """An option that no longer exists and has no replacement.

    Attributes:
        message: what to write instead.
        unused: values with which it had no effect; these are dropped silently.
        typed: as in :class:`Moved`.
    """

    message: str
    unused: tuple[Any, ...] = (None,)
    typed: Literal["value", "tuple", "switch"] = "value"


def _in(unit: str, none: tuple[Any, ...] = ()) -> Callable[[Any], Any]:
    """Return a function that turns a number of a unit into a length; None for None, and for values that meant none."""

    def value(old: Any) -> Any:
        if old is None or old in none:
            return None
        number = isinstance(old, (int, float)) or (unit == "epochs" and old.replace(".", "", 1).isdecimal())
        return f"{old} {unit}" if number else old

    return value


#: Dotted old name -> what became of it.
MOVED: dict[str, Moved | Refused] = {
    "train.loss": Moved("task.loss", _own_loss),
    "train.label_smoothing": Moved("task.label_smoothing"),
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


def upgrade(
    raw: Mapping[str, Any], *, where: str, moved: Mapping[str, Moved | Refused] | None = None
) -> dict[str, Any]:
    """Return nested dictionaries with every old spelling replaced by today's.

    Args:
        raw: a configuration as written.
        where: its name for messages.
        moved: the table (default: :data:`MOVED`).

    Raises:
        UsageError: if an option is given in both spellings, or no longer exists.

    >>> upgrade({"train": {"loss": "bce"}}, where="x", moved={"train.loss": Moved("task.loss")})
    {'task': {'loss': 'bce'}}
    """
    config = _copied(raw)
    ours: set[str] = set()
    if moved is None and isinstance(config.get("data"), dict):
        from resnet_jax.runs.legacy_augment import edit_section  # which loads the transforms

        config["data"] = edit_section(config["data"])
    for old, row in (MOVED if moved is None else moved).items():
        section, name = _section(config, old, make=False), old.split(".")[-1]
        if section is None or name not in section:
            continue
        if isinstance(section[name], dict) and _is_section_now(old, row):
            continue
        option = upgrade_option(old, section.pop(name), where=where, moved={old: row})
        if not section and config.get(old.split(".")[0]) is section:
            del config[old.split(".")[0]]
        if option is None:
            continue
        new, value = option
        target, name = _section(config, new, make=True), new.split(".")[-1]
        if target is None:
            raise UsageError(f"{where}: {old} is the old name of {new}, and {new.split('.')[0]} is not a section there")
        if name in target:
            assert isinstance(row, Moved)
            if new not in ours or row.join is None:
                raise UsageError(f"{where}: {old} is the old name of {new}, and both are given")
            value = row.join(target[name], value)
        target[name] = value
        ours.add(new)
    return config


def upgrade_option(
    key: str, value: Any, *, where: str, moved: Mapping[str, Moved | Refused] | None = None
) -> tuple[str, Any] | None:
    """Return today's name and value of one option; unchanged if it has not moved, None if nothing is left of it.

    >>> upgrade_option("train.epochs", 3, where="x", moved={"train.epochs": Moved("train.length", "{} epochs".format)})
    ('train.length', '3 epochs')

    Raises:
        UsageError: if the option no longer exists.
    """
    row = (MOVED if moved is None else moved).get(key)
    match row:
        case None:
            return key, value
        case Moved():
            new = row.value(value)
            return None if new is NOTHING else (row.new, new)
        case Refused():
            if value in row.unused:
                return None
            raise UsageError(f"{where}: {key} {value} is no more: {row.message}")
        case _:
            assert_never(row)


def translate(
    argv: Sequence[str], *, keep: Iterable[str] = (), moved: Mapping[str, Moved | Refused] | None = None
) -> list[str]:
    """Return command-line arguments with every old spelling replaced by today's.

    Options may be typed as ``--a.b x``, ``--a.b=x``, with dashes or underscores, as a switch or its ``no-`` form.

    Args:
        argv: the arguments.
        keep: dotted names that are current options of the verb.
        moved: the table (default: :data:`MOVED`).

    Raises:
        UsageError: if an option no longer exists.

    >>> table = {"train.epochs": Moved("train.length", "{} epochs".format), "data.flip": Moved("data.mirror",
    ...     typed="switch")}
    >>> translate(["--train.epochs", "3", "--seed", "1"], moved=table)
    ['--train.length', '3 epochs', '--seed', '1']
    >>> translate(["--train.epochs=3,5", "--data.no-flip"], moved=table)
    ['--train.length', '3 epochs,5 epochs', '--data.no-mirror']
    """
    table, kept = MOVED if moved is None else moved, set(keep)
    words, position = [], 0
    while position < len(argv):
        word = argv[position]
        position += 1
        typed, equals, text = word.partition("=")
        key, on = _key(typed)
        row = table.get(key) if word.startswith("--") else None
        if row is not None and key in kept and not (isinstance(row, Moved) and row.new == key):
            row = None  # the verb has an option of this name; only its values may be those of before
        if row is None or (row.typed != "switch" and not on):
            words.append(word)
            if word == "--":
                return [*words, *argv[position:]]
            continue
        following = [] if equals or row.typed == "switch" else _following(argv[position:], row.typed)
        position += len(following)
        given = [text] if equals else following
        words += _new_words(key, given, on, row, table)
    return words


def _new_words(key: str, given: list[str], on: bool, row: Moved | Refused, table: Mapping[str, Any]) -> list[str]:
    if isinstance(row, Moved) and row.value is _same:
        return [_flag(row.new, on), *given]
    if row.typed == "switch":
        option = upgrade_option(key, on, where="the command", moved=table)
    elif row.typed == "tuple":
        option = upgrade_option(key, [_read(word) for word in given], where="the command", moved=table)
    elif given and "," in given[0]:
        options = [upgrade_option(key, _read(item), where="the command", moved=table) for item in given[0].split(",")]
        there = [item for item in options if item is not None]
        option = (there[0][0], ",".join(_written(value) for _, value in there)) if there else None
    else:
        option = upgrade_option(key, _read(given[0]) if given else None, where="the command", moved=table)
    if option is None:
        return []
    new, value = option
    if isinstance(value, bool):
        return [_flag(new, value)]
    return [_flag(new, True), *map(_written, value if isinstance(value, (list, tuple)) else [value])]


def _key(typed: str) -> tuple[str, bool]:
    """Return the dotted name of an option as typed, and False if it is the ``no-`` form of a switch."""
    *path, name = typed.removeprefix("--").replace("-", "_").split(".")
    on = not name.startswith("no_")
    return ".".join([*path, name if on else name.removeprefix("no_")]), on


def _flag(key: str, on: bool) -> str:
    *path, name = key.replace("_", "-").split(".")
    return "--" + ".".join([*path, name if on else f"no-{name}"])


def _following(rest: Sequence[str], typed: Literal["value", "tuple"]) -> list[str]:
    """Return the arguments that belong to the option before them."""
    end = next((index for index, word in enumerate(rest) if word.startswith("--")), len(rest))
    return list(rest[: end if typed == "tuple" else min(end, 1)])


def _read(text: str) -> Any:
    if text == "None":
        return None
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, (int, float, bool)) else text


def _written(value: Any) -> str:
    return str(value)


def _is_section_now(old: str, row: Moved | Refused) -> bool:
    """Return whether a former option is now a section of that name."""
    return isinstance(row, Moved) and row.new.startswith(f"{old}.")


def _section(config: dict[str, Any], key: str, *, make: bool) -> dict[str, Any] | None:
    """Return the dictionary that contains an option; None if there is none."""
    section: Any = config
    for part in key.split(".")[:-1]:
        if not isinstance(section, dict):
            return None
        if make and section.get(part) is None:
            section[part] = {}
        section = section.get(part)
    return section if isinstance(section, dict) else None


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
