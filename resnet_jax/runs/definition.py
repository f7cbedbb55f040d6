"""The definition of an ablation or search in its directory: the same definition resumes, another is rejected."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from resnet_jax.errors import RunError, UsageError
from resnet_jax.runs.config import without_effect
from resnet_jax.runs.recipes import read_utf8
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.plain_yaml import load_yaml

Plain = dict[str, Any]


def significant(definition: Mapping[str, Any]) -> Plain:
    """Return a definition without those fields of its ``base`` configuration that do not affect results."""
    base = copy.deepcopy(definition["base"])
    for key in without_effect():
        *path, name = key.split(".")
        section = base
        for part in path:
            section = section[part]
        section.pop(name, None)
    return {**definition, "base": base}


def default_directory(verb: str, recipe: str, definition: Mapping[str, Any]) -> Path:
    """Return ``runs/VERB-RECIPE-HASH``: the same for the same command, so that running it again resumes.

    Args:
        verb: the verb.
        recipe: name or path of the recipe that all runs start from.
        definition: plain values.
    """
    text = yaml.safe_dump(significant(definition), sort_keys=False)
    return Path("runs") / f"{verb}-{Path(recipe).stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def flat(tree: Mapping[str, Any], prefix: str = "") -> Plain:
    """Return values by dotted key.

    >>> flat({"a": {"b": 1, "c": {}}, "d": [2]})
    {'a.b': 1, 'a.c': {}, 'd': [2]}
    """
    rows: Plain = {}
    for key, value in tree.items():
        rows |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return rows


def stored_definition(
    path: Path, as_today: Callable[[Plain], Plain], what: str, rows: Callable[[Plain], Plain] = flat
) -> Plain:
    """Read a definition.

    Args:
        path: YAML file.
        as_today: converts the stored form to today's form.
        what: name for messages, such as ``an ablation``.
        rows: a definition -> its values by dotted key, as for :func:`changes`.

    Raises:
        RunError: if it is not one.
    """
    try:
        stored = as_today(load_yaml(read_utf8(path)))
        rows(significant(stored))
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, UsageError) as error:
        raise RunError(f"{path} is not the definition of {what}: {error}") from error
    return stored


def changes(before: Mapping[str, Any], after: Mapping[str, Any], rows: Callable[[Plain], Plain] = flat) -> list[str]:
    """Return the differences between two definitions, one line each: ``key: old -> new``.

    Args:
        before: the stored definition.
        after: the new definition.
        rows: a definition -> its values by dotted key.
    """
    old, new = rows(significant(before)), rows(significant(yaml.safe_load(yaml.safe_dump(dict(after)))))
    absent = object()
    return [
        f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, absent) != new.get(key, absent)
    ]


def write_definition(path: Path, definition: Mapping[str, Any]) -> None:
    """Write a definition to its directory, which is created; an existing definition is kept.

    Raises:
        RunError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            write_whole(path, yaml.safe_dump(dict(definition), sort_keys=False))
    except OSError as error:
        raise RunError(f"cannot write the directory {path.parent}: {error.strerror or error}") from error
