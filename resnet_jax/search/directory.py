"""The directory of a search. Only this module knows its file names.

==================  ======================================================================================
``search.yaml``     the recipe with what was changed of it, the space, the sampler and eta: what is searched
``study.db``        every trial: an Optuna study in SQLite, named ``search``
``data.json``       the images, which may not change
``checkpoints/``    the lanes of the wave under way, while there is one
``trials.csv``      all trials: values, seed, updates, validation metric, state
``table.md``        the same, the best first
``best.yaml``       the best trial as a recipe
``parallel.png``    the values of every trial and what came out
``importance.png``  how much of the spread each option explains
``history.png``     the metric by trial, and the best so far
``confirm.json``    the best and the recipe's own values, tested with several seeds (``--confirm``)
``confirm/``        the training of those seeds: ``recipe`` and ``trial-N``, each as the cell of an ablation
==================  ======================================================================================
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from resnet_jax.errors import RunError, UsageError
from resnet_jax.runs.config import RunConfig, config_to_dict
from resnet_jax.runs.definition import changes, default_directory, flat, stored_definition, write_definition
from resnet_jax.runs.recipes import config_from_dict
from resnet_jax.runtime.paths import user_path
from resnet_jax.search.space import Space
from resnet_jax.search.study import SamplerName


@dataclasses.dataclass(frozen=True)
class Definition:
    """What is searched.

    Attributes:
        base: the recipe with the changes that all trials share.
        space: what varies.
        sampler: how trials are proposed.
        eta: parameter of successive halving; 1: every trial runs for the full length.
    """

    base: RunConfig
    space: Space
    sampler: SamplerName = "tpe"
    eta: int = 3

    def __post_init__(self) -> None:
        """Check eta."""
        if self.eta < 1:
            raise UsageError(f"eta must be 1 (no halving) or more, got {self.eta}")

    def to_dict(self) -> dict[str, Any]:
        """Return nested dictionaries and lists of plain values."""
        return {
            "sampler": self.sampler,
            "eta": self.eta,
            "space": self.space.to_dict(),
            "base": config_to_dict(self.base),
        }

    def default_path(self) -> Path:
        """Return ``runs/search-RECIPE-HASH``: the same for the same command, so that running it again resumes."""
        return default_directory("search", self.base.recipe, self.to_dict())


@dataclasses.dataclass(frozen=True)
class SearchDirectory:
    """Paths and small files of the search at ``path``."""

    path: Path

    def __post_init__(self) -> None:
        """Expand ``~`` in the path to the home directory."""
        object.__setattr__(self, "path", user_path(self.path))

    definition = property(lambda self: self.path / "search.yaml")
    study = property(lambda self: self.path / "study.db")
    checkpoints = property(lambda self: self.path / "checkpoints")
    table_csv = property(lambda self: self.path / "trials.csv")
    table_markdown = property(lambda self: self.path / "table.md")
    best = property(lambda self: self.path / "best.yaml")
    parallel = property(lambda self: self.path / "parallel.png")
    importance = property(lambda self: self.path / "importance.png")
    history = property(lambda self: self.path / "history.png")
    confirmed = property(lambda self: self.path / "confirm.json")

    def confirmation(self, trial: int | None) -> Path:
        """Return where a trial is trained with other seeds; None: the recipe's own values."""
        return self.path / "confirm" / ("recipe" if trial is None else f"trial-{trial}")

    def wave(self, key: str, lanes: int) -> Path:
        """Return where the lanes of a wave are saved.

        Args:
            key: identifies their static choices.
            lanes: number of lanes.
        """
        return self.checkpoints / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}-{lanes}"

    def require(self, definition: Definition) -> None:
        """Reject a directory that contains another search.

        Raises:
            RunError: if it does, with the differences; or if the definition there cannot be read.
        """
        if not self.definition.is_file():
            if self.study.is_file():
                raise RunError(
                    f"{self.path} has a study and no {self.definition.name}: use another directory (out=PATH)"
                )
            return
        stored = stored_definition(self.definition, self._as_today, "a search", _rows)
        if changed := changes(stored, definition.to_dict(), _rows):
            raise RunError(
                f"{self.path} holds another search:\n  "
                + "\n  ".join(changed)
                + "\nUse another directory (out=PATH), or the same options to continue it; trials, budget and lanes "
                "may change."
            )

    def _as_today(self, stored: dict[str, Any]) -> dict[str, Any]:
        return {**stored, "base": config_to_dict(config_from_dict(stored["base"], where=str(self.definition)))}

    def open(self, definition: Definition) -> None:
        """Create the directory for ``definition``, or resume in one that already has it.

        Raises:
            RunError: if it contains another search, or cannot be written.
        """
        self.require(definition)
        write_definition(self.definition, definition.to_dict())


def _rows(definition: dict[str, Any]) -> dict[str, Any]:
    """Return the definition by dotted name; options of the space keep their names."""
    space = {f"space.{option}": given for option, given in definition["space"].items()}
    return {**flat({name: definition[name] for name in ("sampler", "eta", "base")}), **space}
