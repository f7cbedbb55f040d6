"""The folder of a run's checkpoints: its names, and the renames by which checkpoints appear and disappear.

========================  =============================================================
``last/STEP``             complete, to resume from
``best/STEP``             complete, of the best validations
``KIND/STEP.partial...``  being written, or left by a process that was killed meanwhile
``KIND/STEP.trash...``    being deleted, likewise
``KIND/STEP.orbax-...``   half-written by a version before manifests
``damaged/KIND-STEP``     set aside because it differs from what was written
========================  =============================================================

Each of them appears and disappears by a single rename, so a process may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from resnet_jax.runtime.paths import identity
from resnet_jax.training.manifest import Score, sync_folder

Kind = Literal["last", "best"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_UNFINISHED = ".partial"
_GOING = ".trash"
_LEFT = (_UNFINISHED, _GOING, ".orbax-checkpoint-tmp")


@dataclasses.dataclass(frozen=True)
class Entry:
    """The properties of a checkpoint that decide which are kept.

    Attributes:
        step: number of updates done.
        score: score of the validation that it was kept for, or None.
    """

    step: int
    score: Score | None = None


class CheckpointFolder:
    """Names and renames below ``path``; independent of what a checkpoint contains.

    Args:
        path: the ``checkpoints`` folder of a run.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._home = path, identity(path.parent)

    @property
    def is_home(self) -> bool:
        """Whether the parent directory is still the one it was at first, if there was one."""
        return self._home is None or identity(self.path.parent) == self._home

    def require_home(self) -> None:
        """Refuse to re-create a directory that was removed or moved while in use, since nothing else would be in it.

        Raises:
            OSError: if that happened.
        """
        if not self.is_home:
            raise FileNotFoundError(errno.ENOENT, "the directory was removed or moved", str(self.path.parent))
        if self._home is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._home = identity(self.path.parent)

    def take_back(self) -> None:
        """Delete what is being written to a directory that is gone; TensorStore re-creates it with all its parents."""
        for kind in KINDS:
            self.clear(kind)
        for folder in (*(self.path / kind for kind in KINDS), self.path, self.path.parent):
            with contextlib.suppress(OSError):  # there is something in it, and not from here
                folder.rmdir()

    def complete(self, kind: Kind, step: int) -> Path:
        """Return the path of a complete checkpoint."""
        return self.path / kind / str(step)

    def unfinished(self, kind: Kind, step: int) -> Path:
        """Return the path of a checkpoint while it is being written."""
        return self.path / kind / f"{step}{_UNFINISHED}"

    @property
    def aside(self) -> Path:
        """The folder of damaged checkpoints."""
        return self.path / "damaged"

    def steps(self, kind: Kind) -> list[int]:
        """Return the steps of the complete checkpoints, oldest first."""
        return sorted(int(name) for name in _names(self.path / kind) if name.isdecimal() and name == str(int(name)))

    def left_over(self, kind: Kind) -> list[Path]:
        """Return what is half-written or half-deleted."""
        found = (self.path / kind / name for name in _names(self.path / kind))
        return sorted(path for path in found if any(part in path.name for part in _LEFT))

    def damaged(self, kind: Kind | None = None) -> list[Path]:
        """Return the checkpoints that were set aside, of one kind or all."""
        begins = "" if kind is None else f"{kind}-"
        return sorted(self.aside / name for name in _names(self.aside) if name.startswith(begins))

    def commit(self, kind: Kind, step: int) -> None:
        """Turn an unfinished checkpoint into a complete one, replacing one of the same step.

        Raises:
            OSError: if it cannot be renamed.
        """
        self.require_home()
        place = self.complete(kind, step)
        if place.exists():
            self.remove(kind, [step])
        os.replace(self.unfinished(kind, step), place)
        sync_folder(place.parent)

    def remove(self, kind: Kind, steps: Iterable[int]) -> None:
        """Delete complete checkpoints; one that cannot be deleted stays."""
        for step in steps:
            with contextlib.suppress(OSError):
                going = _unused(self.path / kind / f"{step}{_GOING}")
                os.replace(self.complete(kind, step), going)
                _delete(going)

    def clear(self, kind: Kind, step: int | None = None) -> None:
        """Delete what is half-written or half-deleted, for one step or all."""
        for path in self.left_over(kind):
            if step is None or path.name.split(".")[0] == str(step):
                _delete(path)

    def set_aside(self, kind: Kind, step: int) -> Path | None:
        """Set a damaged checkpoint aside; return its new path, or None if that is impossible."""
        place = _unused(self.aside / f"{kind}-{step}")
        try:
            self.aside.mkdir(exist_ok=True)
            os.replace(self.complete(kind, step), place)
        except OSError:
            return None
        sync_folder(self.aside)
        return place


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _unused(path: Path) -> Path:
    """Return ``path``, or the first of ``path-2``, ``path-3``, ... that does not exist."""
    found, number = path, 1
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
