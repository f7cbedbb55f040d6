"""Reading of recipe files: shipped ones, a user's own, and what a recipe inherits from another.

``extends: NAME`` starts from the values of another recipe: a shipped one or, in a file, the file at a path that ends
with .yaml, relative to it. Sections are merged, lists are replaced, and null removes a value of the other recipe. The
section ``about`` is not inherited, except for ``smoke``, which is merged like the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from resnet_jax.errors import UsageError, unknown
from resnet_jax.runs.imports import listed
from resnet_jax.runs.legacy import upgrade
from resnet_jax.runtime.imports import whole_names
from resnet_jax.runtime.paths import user_path
from resnet_jax.runtime.plain_files import read_text
from resnet_jax.runtime.plain_yaml import load_yaml

#: Suffixes of users' files.
YAML = (".yaml", ".yml")


@dataclasses.dataclass(frozen=True)
class RecipeFile:
    """A recipe file with what it inherits.

    Attributes:
        raw: the values of a :class:`~resnet_jax.runs.config.RunConfig`, before validation.
        about: the section of that name, before validation; None without one.
    """

    raw: dict[str, Any]
    about: Any = None


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes.

    >>> "digits" in list_recipes()
    True
    """
    folder = resources.files("resnet_jax.recipes")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def require_shipped(name: str, *, hint: str = "") -> str:
    """Return the name of a shipped recipe.

    Raises:
        UsageError: if there is no such recipe; the message ends with the hint.
    """
    if name not in list_recipes():
        raise UsageError(f"{unknown('recipe', name, list_recipes(), '`resnet-jax recipes`')}{hint}")
    return name


def read_shipped(name: str, seen: tuple[str, ...] = ()) -> RecipeFile:
    """Read a shipped recipe by its name."""
    where = f"recipe {name}"
    text = resources.files("resnet_jax.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return whole_recipe(mapping(text, where=where, recipe=name), where=where, seen=(*seen, name))


def read_file(path: Path, seen: tuple[str, ...] = ()) -> RecipeFile:
    """Read a user's recipe file.

    Raises:
        UsageError: if it does not exist, is not a YAML mapping, or what it extends does not exist or extends it in
            turn.
    """
    if not path.is_file():
        raise UsageError(f"no such recipe file: {path}")
    raw = mapping(read_utf8(path), where=str(path), recipe=path.stem)
    return whole_recipe(raw, where=str(path), folder=path.parent, seen=(*seen, str(path.resolve())))


def whole_recipe(
    raw: Mapping[str, Any], *, where: str, folder: Path | None = None, seen: tuple[str, ...] = ()
) -> RecipeFile:
    """Separate ``about`` from a recipe, and merge it with what it ``extends``.

    Args:
        raw: the recipe as read.
        where: the recipe, for messages.
        folder: directory of its file, to which paths are relative; None: it may only extend shipped recipes.
        seen: the recipes that led to it, including itself.

    Raises:
        UsageError: if what it extends does not exist, is not a name, or extends it in turn.
    """
    own = {key: value for key, value in raw.items() if key not in ("about", "extends")}
    about, extends = raw.get("about"), raw.get("extends")
    if extends is None:
        return RecipeFile(own, about)
    if not isinstance(extends, str):
        raise UsageError(f"{where}: extends names one recipe, got {extends!r}")
    if extends.endswith(YAML) and folder is not None:
        path = folder / user_path(extends)
        _require_new(str(path.resolve()), seen, where)
        base = read_file(path, seen)
    else:
        require_shipped(extends, hint=f" ({where} extends it)")
        _require_new(extends, seen, where)
        base = read_shipped(extends, seen)
    if folder is not None and (names := listed(own)):
        own["imports"] = list(whole_names(names, folder))
    merged = merge(upgrade(base.raw, where=where), upgrade(own, where=where))
    smoke = base.about.get("smoke") if isinstance(base.about, dict) else None
    if isinstance(about, dict) and isinstance(smoke, dict) and isinstance(about.get("smoke", {}), dict):
        about = {**about, "smoke": merge(smoke, about.get("smoke", {}))}
    return RecipeFile(merged, about)


def _require_new(name: str, seen: tuple[str, ...], where: str) -> None:
    if name in seen:
        circle = " -> ".join([*seen[seen.index(name) :], name])
        raise UsageError(f"{where}: extends goes round in a circle: {circle}")


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return one nested dictionary merged over another: sections are merged, all else is replaced, None removes it.

    >>> merge({"a": {"x": 1, "y": [1, 2]}, "b": 2}, {"a": {"y": [3]}, "b": None})
    {'a': {'x': 1, 'y': [3]}}
    """
    merged = dict(below)
    for key, value in above.items():
        there = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(there, dict):
            merged[key] = merge(there, value)
        else:
            merged[key] = value
    return merged


def mapping(text: str, *, where: str, recipe: str | None) -> dict[str, Any]:
    """Return the nested dictionaries of a YAML document.

    Args:
        text: the document.
        where: its name for messages.
        recipe: name of the recipe if the document does not contain it.

    Raises:
        UsageError: if it is invalid, or not a mapping.
    """
    try:
        raw = load_yaml(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{where} must be a mapping with keys such as model, data, optim and train")
    if recipe is not None:
        raw.setdefault("recipe", recipe)
    return raw


def read_utf8(path: Path) -> str:
    """Return the text of a file written by a person, whatever the locale.

    Raises:
        UsageError: if it cannot be read, or is not UTF-8 text.
    """
    try:
        return read_text(path, encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        ) from error
