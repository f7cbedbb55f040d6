"""Whether the run directory still exists: if removed, moved or replaced, a run must not re-create it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from resnet_jax.errors import RunError
from resnet_jax.runtime.paths import identity
from resnet_jax.training.observers import Observer, Row

#: Seconds between two checks.
EVERY = 1.0


class Presence(Observer):
    """Checks the directory at most once a second, and stops a run whose directory is gone.

    Args:
        path: path of the run directory.
        clock: returns monotonic time in seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._found, self._looked = identity(path), clock()
        self._config = path / "config.yaml"
        self._has_config = self._config.is_file()

    @property
    def is_there(self) -> bool:
        """Whether the directory is the one that the run began in, with its configuration."""
        same = self._found is None or identity(self._path) == self._found
        return same and (not self._has_config or self._config.is_file())

    def require(self) -> None:
        """Check now.

        Raises:
            RunError: if it was removed, moved or replaced by another.
        """
        if self.is_there:
            return
        there = "another directory" if self._path.exists() else "nothing"
        there = "only a part of it" if identity(self._path) == self._found else there
        raise RunError(
            f"the run directory {self._path} was removed or moved while training; {there} is there now, and nothing "
            "was written to it. If it was moved, resume it at its new location: run_dir=PATH"
        )

    def on_step(self, row: Row) -> None:
        """Check, if it is time.

        Raises:
            RunError: as for :meth:`require`.
        """
        del row
        now = self._clock()
        if now - self._looked >= EVERY:
            self._looked = now
            self.require()
