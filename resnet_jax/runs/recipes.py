"""Reading of configurations: shipped recipes by name, YAML files and texts, nested dictionaries; all validated."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.errors import FEW, UsageError, closest, either, nearest
from resnet_jax.fields import check_value, is_section, options_of, own_options
from resnet_jax.runs.about import About, read_about
from resnet_jax.runs.config import RunConfig, differences
from resnet_jax.runs.imports import import_named, is_of_run, listed, missing_told
from resnet_jax.runs.kept import Kept
from resnet_jax.runs.legacy import upgrade
from resnet_jax.runs.recipe_files import (
    YAML,
    RecipeFile,
    list_recipes as list_recipes,
    mapping,
    read_file,
    read_shipped,
    read_utf8 as read_utf8,
    require_shipped,
    whole_recipe,
)
from resnet_jax.runtime.paths import user_path

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def load_recipe(name: str) -> RunConfig:
    """Read a shipped recipe by name, or any configuration by the path of its YAML file.

    What the file lists under ``imports`` is imported first; paths are relative to the file. It inherits from what it
    ``extends`` (:mod:`resnet_jax.runs.recipe_files`), and its ``about`` section is checked and left out
    (:func:`load_about`). The ``config.yaml`` of a run directory, which may come from someone else, is only read.

    Raises:
        UsageError: if there is no such recipe or file, or it has an unknown key or a wrong value; the message names it.
    """
    if name.endswith(YAML):
        path = user_path(name)
        if path.is_file() and is_of_run(path):  # of a run that may be damaged, and which knows what it was
            return Kept(path.parent).read(
                path, lambda text: parse_config(text, where=str(path), recipe=path.stem), differences
            )
        found = read_file(path)
        _about_of(found, where=str(path))
        return config_from_dict(import_named(found.raw, where=str(path), folder=path.parent), where=str(path))
    found, where = read_shipped(require_shipped(name, hint=_hint(name))), f"recipe {name}"
    _about_of(found, where=where)
    return config_from_dict(found.raw, where=where)


def load_about(name: str) -> About | None:
    """Read what a recipe, shipped or at a path, says about itself; None if it says nothing.

    Raises:
        UsageError: if there is no such recipe or file, or its ``about`` has an unknown key or a wrong value.

    >>> load_about("digits").source
    'this project'
    """
    if name.endswith(YAML):
        path = user_path(name)
        return None if path.is_file() and is_of_run(path) else _about_of(read_file(path), where=str(path))
    return _about_of(read_shipped(require_shipped(name, hint=_hint(name))), where=f"recipe {name}")


def _about_of(found: RecipeFile, *, where: str) -> About | None:
    return None if found.about is None else read_about(found.about, where=where)


def _hint(name: str) -> str:
    return "; a file of your own must end with .yaml" if Path(name).is_file() else ""


def parse_config(text: str, *, where: str, recipe: str | None = None) -> RunConfig:
    """Validate YAML into a :class:`RunConfig`; unknown keys are rejected. Nothing is imported.

    Args:
        text: the YAML document.
        where: its name for messages.
        recipe: name of the recipe if the document does not contain it.

    Raises:
        UsageError: for wrong keys or values; lists all of them, with the nearest valid keys.
    """
    found = whole_recipe(mapping(text, where=where, recipe=recipe), where=where)
    _about_of(found, where=where)
    return config_from_dict(found.raw, where=where)


def config_from_dict(raw: dict[str, Any], *, where: str) -> RunConfig:
    """Validate nested dictionaries into a :class:`RunConfig`; see :func:`parse_config`."""
    with missing_told(listed(raw) or (), where=where):
        return _validated(upgrade(raw, where=where), where=where)


@functools.lru_cache(maxsize=1)
def _adapter(options: str) -> TypeAdapter[RunConfig]:
    """Return a validator for configurations with these options; building it takes ten times as long as using it.

    Args:
        options: all options with their annotations: a norm that is registered later is an additional value.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(RunConfig)


def _validated(raw: dict[str, Any], *, where: str) -> RunConfig:
    from pydantic import ValidationError

    problems = _unknown_keys(RunConfig, raw, "")
    if problems:
        raise UsageError(f"{where}: " + "; ".join(problems))
    try:
        return _adapter(str(options_of(RunConfig))).validate_python(raw)
    except ValidationError as error:
        details = []
        for item in error.errors():
            ours = item.get("ctx", {}).get("error")  # raised by a __post_init__ of ours
            key = ".".join(str(part) for part in item["loc"])
            ours = ours or _in_our_words(item["loc"], item["input"])
            hint = ""
            if item["type"] == "string_type":  # on, 010 and 2024-01-01 are no text to YAML
                hint = "; to YAML this is no text: put it in quotes"
            details.append(str(ours) if ours else f"{key}: {item['msg']}, got {item['input']!r}{hint}")
        raise UsageError(f"{where}: " + "; ".join(details)) from error


def _in_our_words(where: tuple[Any, ...], value: Any) -> UsageError | None:
    """Return what is wrong with an option's value, if its type is a ``Literal`` or a range."""
    for length in range(len(where), 0, -1):  # beyond the option: which item of a tuple
        key = ".".join(str(part) for part in where[:length])
        if key in (hints := options_of(RunConfig)):
            try:
                check_value(key, (value,) if length < len(where) else value, hints[key])
            except UsageError as error:
                return error
    return None


def _unknown_keys(section: type, raw: dict[str, Any], prefix: str) -> list[str]:
    hints = own_options(section)
    names, problems = list(hints), []
    for key, value in raw.items():
        if key not in names:
            close = nearest(str(key), names)
            hint = f", known here: {', '.join(names)}"
            if close or len(names) > FEW:
                hint = f", did you mean {either([f'{prefix}{name}' for name in closest(str(key), names)])}?"
            problems.append(f"unknown key {prefix}{key}{hint}")
        elif is_section(hints[key]) and isinstance(value, dict):
            problems += _unknown_keys(hints[key], value, f"{prefix}{key}.")
    return problems
