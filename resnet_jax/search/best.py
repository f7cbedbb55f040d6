"""The best trial as a recipe file, which ``resnet-jax train`` accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from resnet_jax.errors import UsageError
from resnet_jax.runs.config import RunConfig, config_to_dict, decisive, differences
from resnet_jax.runs.recipes import list_recipes, load_recipe
from resnet_jax.runtime.files import write_whole


def write_recipe(path: Path, config: RunConfig, comments: list[str]) -> None:
    """Write a configuration as a recipe file: its differences from the shipped recipe it comes from, or all of it.

    It is read back and compared before it replaces an existing file.

    Args:
        path: path that ends with .yaml.
        config: the configuration.
        comments: comment lines at the top.

    Raises:
        OSError: if it cannot be written.
    """
    head = "".join(f"# {line}\n" for line in comments)
    trial = path.with_name(f".{path.name}")
    for raw in [*([_changes(config)] if config.recipe in list_recipes() else []), _whole(config)]:
        write_whole(trial, head + yaml.safe_dump(raw, sort_keys=False))
        if _is_same(trial, config):
            break
    trial.replace(path)


def _changes(config: RunConfig) -> dict[str, Any]:
    """Return the changes that turn the shipped recipe into the configuration."""
    before, after = decisive(load_recipe(config.recipe)), decisive(config)
    raw: dict[str, Any] = {"extends": config.recipe}
    for key, value in after.items():
        if before[key] != value:
            *path, name = key.split(".")
            section = raw
            for part in path:
                section = section.setdefault(part, {})
            section[name] = value
    return raw


def _whole(config: RunConfig) -> dict[str, Any]:
    raw = config_to_dict(config)
    del raw["recipe"]
    return raw


def _is_same(path: Path, config: RunConfig) -> bool:
    try:
        found = load_recipe(str(path))
    except UsageError:
        return False
    return all(line.startswith("recipe:") for line in differences(config, found))
