"""Paths as users give them: ``~`` is the home directory, wherever a path comes from."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

from resnet_jax.errors import RunError, UsageError


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` with a leading ``~`` or ``~user`` replaced by the home directory it stands for.

    A shell does so only if the ``~`` begins a word, which it does not in ``--out=~/x``, in quotes, in a file and in
    Python. A file that is really named ``~x`` is used if there is no such user; otherwise write its full path.

    Raises:
        UsageError: if that home directory is unknown.

    >>> user_path("a/~b"), user_path("~/x") == Path.home() / "x"
    (PosixPath('a/~b'), True)
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        if Path(path).exists():
            return Path(path)
        name = Path(path).parts[0]
        raise UsageError(
            f"{os.fspath(path)}: {name} stands for a home directory, and this machine knows none for it; write the "
            "path in full"
        ) from error


def source_name(source: str) -> str:
    """Return a data source without the directories of its path, so that shared files do not reveal them.

    >>> source_name("folder:/home/me/photos"), source_name("digits")
    ('folder:photos', 'digits')
    """
    kind, colon, path = source.partition(":")
    return f"{kind}{colon}{Path(path).name}"


def identity(path: Path) -> tuple[int, int] | None:
    """Return what distinguishes a file or directory from a later one at the same path; None if there is none.

    >>> identity(Path("nowhere")) is None
    True
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def is_plain(path: Path) -> bool:
    r"""Return whether every library treats the path literally: it is UTF-8 and contains no pattern.

    >>> is_plain(Path("/runs/digits")), is_plain(Path("/runs/[old]")), is_plain(Path("/runs/\udcff"))
    (True, False, False)
    """
    return not set("*?[") & set(str(path)) and all(not 0xD800 <= ord(letter) <= 0xDFFF for letter in str(path))


class PlainAlias:
    """Another, plain path of a folder, through a link in the directory for temporary files.

    Attributes:
        path: path of the link.

    Raises:
        RunError: if no link can be created.
    """

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._above = Path(tempfile.mkdtemp(prefix="resnet-jax-"))
            self.path = self._above / "folder"
            self.path.symlink_to(folder, target_is_directory=True)
            if not is_plain(self.path):
                raise OSError(f"{self._above} is no plain path either")
        except OSError as error:
            raise RunError(
                f"no checkpoint can be kept in {folder}: {error.strerror or error}; give a directory whose path is "
                "UTF-8 and has no *, ? or ["
            ) from error

    def remove(self) -> None:
        """Remove the link; what was written through it stays."""
        self.path.unlink(missing_ok=True)
        self._above.rmdir()


def expand_paths(value: Any) -> Any:
    """Return ``value`` with :func:`user_path` applied to every path in dataclasses, tuples, lists and mappings."""
    if isinstance(value, Path):
        return user_path(value)
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        new = type(value)(expand_paths(item) for item in value)
        return value if all(a is b for a, b in zip(value, new, strict=True)) else new
    if isinstance(value, dict):
        return {key: expand_paths(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        old = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        new = {name: expand_paths(item) for name, item in old.items()}
        changed = {name: item for name, item in new.items() if item is not old[name] and item != old[name]}
        return dataclasses.replace(value, **changed) if changed else value
    return value
