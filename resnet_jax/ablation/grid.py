"""The cells of an ablation: the product of its axes, crossed with named cells; each changes one configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from resnet_jax.errors import UsageError, unknown
from resnet_jax.fields import check_value, choices_of, is_section, options_of, own_options
from resnet_jax.runs.config import RunConfig, config_to_dict
from resnet_jax.runs.legacy import upgrade_option
from resnet_jax.runs.legacy_augment import OLD_FIELDS
from resnet_jax.runs.recipes import config_from_dict, read_utf8
from resnet_jax.runtime.paths import user_path
from resnet_jax.runtime.plain_yaml import load_yaml_and_keys

#: The parts of a configuration whose fields can be varied.
PARTS = tuple(name for name, hint in own_options(RunConfig).items() if is_section(hint))
AGC = "optim.agc"
#: The meaning of ``agc='on'`` if the recipe does not define it: the clipping of Brock et al. 2021 (arXiv:2102.06171,
#: 4.1).
AGC_DEFAULT = 0.01
MAX_ID = 100
_SCALARS = {str, int, float, bool, type(None)}


@dataclasses.dataclass(frozen=True)
class Axis:
    """One option and the values it takes.

    Attributes:
        key: dotted name, as ``model.norm``.
        values: two or more (one is allowed), all different.
    """

    key: str
    values: tuple[Any, ...]

    def label(self, value: Any) -> str:
        """Return a value in readable form; adaptive clipping with a single strength is ``on`` or ``off``.

        >>> Axis("optim.agc", (None, 0.01)).label(0.01), Axis("task.label_smoothing", (0.0, 0.1)).label(0.1)
        ('on', '0.1')
        """
        if self.key == AGC:
            if value is None:
                return "off"
            return "on" if len([v for v in self.values if v is not None]) == 1 else f"{value:g}"
        if isinstance(value, bool):
            return str(value).lower()
        return f"{value:g}" if isinstance(value, float) else str(value)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One configuration of the matrix.

    Attributes:
        id: readable, and usable as a folder name.
        labels: column -> value in readable form; the columns are the same for all cells of an ablation.
        settings: dotted key -> value, the changes to the base configuration.
    """

    id: str
    labels: dict[str, str]
    settings: dict[str, Any]

    @property
    def label(self) -> str:
        """The cell in one line."""
        return ", ".join(value if key == "cell" else f"{key} {value}" for key, value in self.labels.items()) or self.id

    def configure(self, base: RunConfig) -> RunConfig:
        """Return the configuration of this cell.

        Raises:
            UsageError: if it is impossible.
        """
        raw = config_to_dict(base)
        for key, value in self.settings.items():
            *path, name = key.split(".")
            part = raw
            for step in path:
                part = part[step]
            part[name] = value
        return config_from_dict(raw, where=f"cell {self.id}")


def options() -> dict[str, Any]:
    """Return every option that can be varied: dotted key -> type.

    >>> "optim.schedule.kind" in options(), "task.loss" in options()
    (True, True)
    """
    found = {key: hint for key, hint in options_of(RunConfig).items() if key.split(".")[0] in PARTS}
    return {**found, **{f"data.{name}": hint for name, hint in OLD_FIELDS.items()}}


def scalar_options() -> dict[str, Any]:
    """Return the options that hold a single value, for which a comma-separated list is an axis.

    >>> "model.norm" in scalar_options(), "data.mean" in scalar_options()
    (True, False)
    """
    return {key: hint for key, hint in options().items() if _is_scalar(hint)}


def _is_scalar(hint: Any) -> bool:
    origin, arms = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _is_scalar(arms[0])
    if origin in (typing.Union, types.UnionType):
        return all(_is_scalar(arm) for arm in arms)
    return origin is typing.Literal or hint in _SCALARS


def parse_axis(key: str, text: str) -> Axis:
    """Parse ``batch,group,none`` as values of an option; each is parsed as in ``train``.

    Raises:
        UsageError: for an unknown option, an invalid or empty value, or a repeated one.

    >>> parse_axis("optim.learning_rate", "0.1,0.2")
    Axis(key='optim.learning_rate', values=(0.1, 0.2))
    """
    known = scalar_options()
    if key not in known:
        raise unknown("option", key, known, "`resnet-jax ablate RECIPE --help`")
    values = tuple(_value(key, known[key], item.strip()) for item in text.split(","))
    return _axis(key, values)


def parse_agc(text: str, base: RunConfig) -> Axis:
    """Parse ``off,on`` (or strengths) as values of adaptive gradient clipping.

    Args:
        text: a comma-separated list of ``off``, ``on`` (the recipe's strength, or 0.01) and numbers.
        base: the recipe.

    Raises:
        UsageError: for anything else.
    """
    strength = base.optim.agc if base.optim.agc is not None else AGC_DEFAULT
    words = {"off": None, "on": strength}
    values = []
    for item in (part.strip() for part in text.split(",")):
        if item not in words:
            try:
                words[item] = float(item)
            except ValueError:
                raise UsageError(f"agc={item} is none of off, on or a strength such as 0.01") from None
        values.append(words[item])
    return _axis(AGC, tuple(values))


def _axis(key: str, values: tuple[Any, ...]) -> Axis:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise UsageError(f"{key} has the value {value} twice")
    return Axis(key, values)


def _value(key: str, hint: Any, text: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    if not text:
        raise UsageError(f"{key}: there is an empty value in the list; write a,b without a comma at the end")
    if text == "None" and type(None) in typing.get_args(hint):
        return None
    try:
        return TypeAdapter(hint).validate_python(text)
    except ValidationError as error:
        if choices_of(hint):
            check_value(key, text, hint)
        raise UsageError(f"{key}: {error.errors()[0]['msg']}, got {text!r}") from error


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse seeds: a number N means the seeds 0..N-1; a list with a comma means those seeds (``7,`` is only seed 7).

    Raises:
        UsageError: for anything else, a repeated seed, or none.

    >>> parse_seeds("5"), parse_seeds("3,7"), parse_seeds("7,")
    ((0, 1, 2, 3, 4), (3, 7), (7,))
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:
        parts, listed = parts[:-1], True
    else:
        listed = len(parts) > 1
    if not all(re.fullmatch(r"\d+", part) for part in parts):
        raise UsageError(f"seeds={text!r} must be how many (5: the seeds 0 to 4) or which (3,7)")
    numbers = tuple(int(part) for part in parts)
    if not listed:
        numbers = tuple(range(numbers[0]))
    if not numbers or len(set(numbers)) < len(numbers):
        raise UsageError(f"seeds={text!r} must be one or more different seeds")
    return numbers


def load_cells(path: Path) -> dict[str, dict[str, Any]]:
    """Read named cells from YAML: ``name: {dotted key: value, ...}``; ``name: {}`` is the unchanged recipe.

    Raises:
        UsageError: if there is no such file, it is malformed, or an option is unknown; with the nearest valid one.
    """
    try:
        text = read_utf8(user_path(path))
        raw, names = load_yaml_and_keys(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict) or not raw or not all(isinstance(value, dict | None) for value in raw.values()):
        raise UsageError(f"{path} must map names of cells to their settings, as in 'gn: {{model.norm: group}}'")
    known = options()
    for name, settings in raw.items():
        today = [upgrade_option(key, value, where=f"{path}, cell {name}") for key, value in (settings or {}).items()]
        raw[name] = settings = dict(option for option in today if option is not None)
        for key in settings:
            if key not in known:
                raise unknown(f"option in cell {name} of {path}:", key, known, "`resnet-jax train RECIPE --help`")
    if len(set(names)) < len(names) or len(names) != len(raw):
        raise UsageError(f"{path} has a cell twice, or two that are the same to YAML (put names in quotes): {names}")
    return {name: dict(settings) for name, settings in zip(names, raw.values(), strict=True)}


def make_cells(axes: Sequence[Axis], named: Mapping[str, Mapping[str, Any]] | None = None) -> list[Cell]:
    """Cross the named cells with the axes; the last axis varies fastest. Without either there is one cell, ``base``.

    Raises:
        UsageError: if an option is varied twice.

    >>> [cell.id for cell in make_cells([Axis("model.norm", ("batch", "none")), Axis("optim.agc", (None, 0.01))])]
    ['norm-batch_agc-off', 'norm-batch_agc-on', 'norm-none_agc-off', 'norm-none_agc-on']
    """
    keys = [axis.key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError(f"{key} is given twice; put all its values into one list")
        for name, settings in (named or {}).items():
            if key in settings:
                raise UsageError(f"{key} is an axis, and cell {name} sets it too: leave it to one of them")
    columns = _columns(keys)
    cells = []
    for name, *values in itertools.product(named or [None], *(axis.values for axis in axes)):
        labels = {} if name is None else {"cell": name}
        labels |= {columns[axis.key]: axis.label(value) for axis, value in zip(axes, values, strict=True)}
        settings = dict(named[name]) if named and name is not None else {}
        cells.append(Cell(_identifier(labels), labels, settings | dict(zip(keys, values, strict=True))))
    return _with_unique_ids(cells)


def _columns(keys: Sequence[str]) -> dict[str, str]:
    """Return a short name for each key: ``norm`` for model.norm, ``optim`` for optim.name."""
    short = {key: re.sub(r"\.(name|kind)$", "", key).split(".")[-1] for key in keys}
    taken = list(short.values())
    return {key: name if taken.count(name) == 1 and name != "cell" else key for key, name in short.items()}


def _identifier(labels: Mapping[str, str]) -> str:
    text = "_".join(value if key == "cell" else f"{key}-{value}" for key, value in labels.items())
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "base"


def _with_unique_ids(cells: list[Cell]) -> list[Cell]:
    """Add a hash to ids that are too long for a folder or not unique, ignoring case."""
    ids = [cell.id.lower() for cell in cells]
    unique = []
    for cell in cells:
        if len(cell.id) > MAX_ID or ids.count(cell.id.lower()) > 1:
            digest = hashlib.sha256(repr(sorted(cell.labels.items())).encode()).hexdigest()[:8]
            cell = dataclasses.replace(cell, id=f"{cell.id[: MAX_ID - 9]}-{digest}")
        unique.append(cell)
    return unique
