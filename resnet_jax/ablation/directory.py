"""The directory of an ablation, and the only place that knows its file names.

=========================  ==============================================================
``ablation.yaml``          base configuration, axes, named cells and seeds: what is compared
``cells/ID/``              one folder a cell: its ``config.yaml``, ``data.json``, ``environment.json``,
                           ``metrics.jsonl`` (a row per epoch and seed), ``result.json``, and
                           ``checkpoints/`` while it is unfinished
``table.md, table.csv``    the result, rewritten after every cell
``curves.png``             learning curves, rewritten after every cell
=========================  ==============================================================
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from resnet_jax.ablation.grid import Axis, Cell, make_cells
from resnet_jax.errors import RunError, UsageError
from resnet_jax.runs.config import RunConfig, config_to_dict, without_effect
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.recipes import config_from_dict, read_utf8
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.paths import user_path
from resnet_jax.runtime.plain_yaml import load_yaml


@dataclasses.dataclass(frozen=True)
class Definition:
    """What an ablation compares.

    Attributes:
        base: the recipe and what all cells change of it; its seed is not used.
        axes: options and their values.
        named: cell name -> dotted key -> value.
        seeds: every cell is trained with each of them.
    """

    base: RunConfig
    axes: tuple[Axis, ...] = ()
    named: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)

    def cells(self) -> list[Cell]:
        """Return the cells in the order of the table."""
        return make_cells(self.axes, self.named)

    def to_dict(self) -> dict[str, Any]:
        """Return nested dictionaries and lists of plain values."""
        base = config_to_dict(self.base)
        del base["seed"]
        return {
            "seeds": list(self.seeds),
            "axes": {axis.key: list(axis.values) for axis in self.axes},
            "cells": {name: dict(settings) for name, settings in self.named.items()},
            "base": base,
        }

    def default_path(self) -> Path:
        """Return ``runs/ablate-RECIPE-HASH``: the same for the same command, so that running it again resumes."""
        text = yaml.safe_dump(_significant(self.to_dict()), sort_keys=False)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return Path("runs") / f"ablate-{Path(self.base.recipe).stem}-{digest}"


@dataclasses.dataclass(frozen=True)
class AblationDirectory:
    """Paths and small files of the ablation at ``path``."""

    path: Path

    def __post_init__(self):
        """Take ``~`` in the path as the home directory."""
        object.__setattr__(self, "path", user_path(self.path))

    definition = property(lambda self: self.path / "ablation.yaml")
    table_markdown = property(lambda self: self.path / "table.md")
    table_csv = property(lambda self: self.path / "table.csv")
    curves = property(lambda self: self.path / "curves.png")

    def cell(self, cell: Cell) -> RunDirectory:
        """Return the folder of a cell."""
        return RunDirectory(self.path / "cells" / cell.id)

    def require(self, definition: Definition) -> None:
        """Refuse a directory that holds another ablation.

        Raises:
            RunError: with what differs, or the definition there cannot be read.
        """
        if not self.definition.is_file():
            return
        try:
            stored = load_yaml(read_utf8(self.definition))
            before = dict(_flat(_significant(_as_today(stored, self.definition))))
        except (yaml.YAMLError, AttributeError, KeyError, TypeError, UsageError) as error:
            raise RunError(f"{self.definition} is not the definition of an ablation: {error}") from error
        after = dict(_flat(_significant(yaml.safe_load(yaml.safe_dump(definition.to_dict())))))
        changed = [
            f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
            for key in dict.fromkeys([*before, *after])
            if before.get(key, _ABSENT) != after.get(key, _ABSENT)
        ]
        if not changed and [*stored["axes"]] != [axis.key for axis in definition.axes]:
            changed = [f"order of the axes: {', '.join(stored['axes'])}"]
        if changed:
            raise RunError(
                f"{self.path} holds another ablation:\n  "
                + "\n  ".join(changed)
                + "\nUse another directory (out=PATH), or the same options to continue it."
            )

    def open(self, definition: Definition) -> None:
        """Create the directory for ``definition``, or resume in one that already has it.

        Raises:
            RunError: it holds another ablation, or cannot be written.
        """
        self.require(definition)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.definition.is_file():
                write_whole(self.definition, yaml.safe_dump(definition.to_dict(), sort_keys=False))
        except OSError as error:
            raise RunError(f"cannot write the directory {self.path}: {error.strerror or error}") from error


_ABSENT = object()


def _as_today(stored: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a stored definition with its base as :meth:`Definition.to_dict` would write it now."""
    base = config_to_dict(config_from_dict(stored["base"], where=str(path)))
    del base["seed"]
    return {**stored, "base": base}


def _significant(definition: dict[str, Any]) -> dict[str, Any]:
    """Leave out the fields of the base that decide nothing."""
    base = copy.deepcopy(definition["base"])
    for key in without_effect():
        *path, name = key.split(".")
        section = base
        for part in path:
            section = section[part]
        section.pop(name, None)
    return {**definition, "base": base}


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        path = f"{prefix}{key}"
        rows += _flat(value, f"{path}.") if isinstance(value, dict) and value else [(path, value)]
    return rows
