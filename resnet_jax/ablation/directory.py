"""The directory of an ablation. Only this module knows its file names.

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

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.ablation.grid import Axis, Cell, make_cells
from resnet_jax.errors import RunError
from resnet_jax.runs.config import RunConfig, config_to_dict
from resnet_jax.runs.definition import changes, default_directory, stored_definition, write_definition
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.recipes import config_from_dict
from resnet_jax.runtime.paths import user_path


@dataclasses.dataclass(frozen=True)
class Definition:
    """What an ablation compares.

    Attributes:
        base: the recipe with the changes that all cells share; its seed is not used.
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
        return default_directory("ablate", self.base.recipe, self.to_dict())


@dataclasses.dataclass(frozen=True)
class AblationDirectory:
    """Paths and small files of the ablation at ``path``."""

    path: Path

    def __post_init__(self):
        """Expand ``~`` in the path to the home directory."""
        object.__setattr__(self, "path", user_path(self.path))

    definition = property(lambda self: self.path / "ablation.yaml")
    table_markdown = property(lambda self: self.path / "table.md")
    table_csv = property(lambda self: self.path / "table.csv")
    curves = property(lambda self: self.path / "curves.png")

    def cell(self, cell: Cell) -> RunDirectory:
        """Return the folder of a cell."""
        return RunDirectory(self.path / "cells" / cell.id)

    def require(self, definition: Definition) -> None:
        """Reject a directory that contains another ablation.

        Raises:
            RunError: if it does, with the differences; or if the definition there cannot be read.
        """
        if not self.definition.is_file():
            return
        stored = stored_definition(self.definition, self._as_today, "an ablation")
        changed = changes(stored, definition.to_dict())
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
            RunError: if it contains another ablation, or cannot be written.
        """
        self.require(definition)
        write_definition(self.definition, definition.to_dict())

    def _as_today(self, stored: dict[str, Any]) -> dict[str, Any]:
        base = config_to_dict(config_from_dict(stored["base"], where=str(self.definition)))
        del base["seed"]
        return {**stored, "base": base}
