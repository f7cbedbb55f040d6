"""Configurations read: shipped recipes by name, YAML files and texts, nested dictionaries; validated, or refused."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from resnet_jax.errors import FEW, UsageError, closest, either, nearest, unknown
from resnet_jax.fields import check_value, is_section, options_of, own_options
from resnet_jax.runs.config import RunConfig, differences
from resnet_jax.runs.imports import import_named, is_of_run, listed, missing_told
from resnet_jax.runs.kept import Kept
from resnet_jax.runs.legacy import upgrade
from resnet_jax.runtime.paths import user_path
from resnet_jax.runtime.plain_files import read_text
from resnet_jax.runtime.plain_yaml import load_yaml


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes.

    >>> "digits" in list_recipes()
    True
    """
    folder = resources.files("resnet_jax.recipes")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_recipe(name: str) -> RunConfig:
    """Read a shipped recipe by name, or any configuration by the path of its YAML file.

    What the file names under ``imports`` is imported first; paths are relative to the file. The ``config.yaml`` of a
    run directory, which somebody else may have made, is only read.

    Raises:
        UsageError: no such recipe or file, or it has an unknown key or a wrong value; it names which.
    """
    if name.endswith((".yaml", ".yml")):
        path = user_path(name)
        if not path.is_file():
            raise UsageError(f"no such recipe file: {path}")
        if is_of_run(path):  # of a run that may be damaged, and which knows what it was
            return Kept(path.parent).read(
                path, lambda text: parse_config(text, where=str(path), recipe=path.stem), differences
            )
        raw = _mapping(read_utf8(path), where=str(path), recipe=path.stem)
        return config_from_dict(import_named(raw, where=str(path), folder=path.parent), where=str(path))
    if name not in list_recipes():
        error = unknown("recipe", name, list_recipes())
        hint = "; a file of your own must end with .yaml" if Path(name).is_file() else ""
        raise UsageError(f"{error}{hint}")
    text = resources.files("resnet_jax.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return parse_config(text, where=f"recipe {name}")


def read_utf8(path: Path) -> str:
    """Return the text of a file that a person wrote, whatever the locale says.

    Raises:
        UsageError: it cannot be read, or is not text in UTF-8.
    """
    try:
        return read_text(path, encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        ) from error


def parse_config(text: str, *, where: str, recipe: str | None = None) -> RunConfig:
    """Validate YAML into a :class:`RunConfig`; unknown keys are refused. Nothing is imported.

    Args:
        text: the YAML document.
        where: what to call it in messages.
        recipe: name of the recipe if the document does not say.

    Raises:
        UsageError: with every wrong key or value, and the nearest right key.
    """
    return config_from_dict(_mapping(text, where=where, recipe=recipe), where=where)


def _mapping(text: str, *, where: str, recipe: str | None) -> dict[str, Any]:
    try:
        raw = load_yaml(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{where} must be a mapping with keys such as model, data, optim and train")
    if recipe is not None:
        raw.setdefault("recipe", recipe)
    return raw


def config_from_dict(raw: dict[str, Any], *, where: str) -> RunConfig:
    """Validate nested dictionaries into a :class:`RunConfig`; see :func:`parse_config`."""
    with missing_told(listed(raw) or (), where=where):
        return _validated(upgrade(raw, where=where), where=where)


def _validated(raw: dict[str, Any], *, where: str) -> RunConfig:
    from pydantic import TypeAdapter, ValidationError

    problems = _unknown_keys(RunConfig, raw, "")
    if problems:
        raise UsageError(f"{where}: " + "; ".join(problems))
    try:
        return TypeAdapter(RunConfig).validate_python(raw)
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
    """Return what is wrong with an option's value, if it is a value of a ``Literal`` or a range."""
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
