"""The imports of a configuration: executed for a recipe that the user names, only reported for a run of someone else.

A recipe given by the user is loaded with its imports. A run directory is only read: its ``imports`` are code that its
author ran, and nothing here runs it. Names that are then unknown are rejected, with the option to type.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from resnet_jax.errors import UsageError
from resnet_jax.runtime.imports import import_modules, is_imported, whole_names


def import_named(raw: Mapping[str, Any], *, where: str, folder: Path) -> dict[str, Any]:
    """Import what a recipe names, before anything else in it is read.

    Args:
        raw: the recipe.
        where: its name for messages.
        folder: its directory, to which paths in it are relative.

    Returns:
        The recipe with absolute paths.

    Raises:
        UsageError: if it is not a list of strings, there is no such module or file, or importing it raises an
            exception.
    """
    names = listed(raw)
    if names is None:
        raise UsageError(
            f"{where}: imports is a list of modules and of files that end with .py, got {raw['imports']!r}"
        )
    if not names:
        return dict(raw)
    found = whole_names(names, folder)
    try:
        import_modules(found)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    return {**raw, "imports": list(found)}


def is_of_run(path: Path) -> bool:
    """Return whether a file is the configuration of a run directory, as opposed to a recipe written to be run."""
    others = ("environment.json", "data.json", "start.json", "summary.json", "checkpoints")
    return path.name == "config.yaml" and any((path.parent / name).exists() for name in others)


def listed(raw: Mapping[str, Any]) -> list[str] | None:
    """Return the ``imports`` of nested dictionaries; None if they are not a list of strings."""
    names = raw.get("imports") or []
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return None
    return list(names)


@contextlib.contextmanager
def missing_told(names: Iterable[str], *, where: str) -> Iterator[None]:
    """Add to a usage error that missing imports of a run may be the cause, and what to type.

    Args:
        names: the imports of the run.
        where: the run.

    Raises:
        UsageError: in place of the one that is raised.
    """
    try:
        yield
    except UsageError as error:
        missing = [name for name in names if not is_imported(name)]
        if not missing or "--imports" in str(error):
            raise
        flags = " ".join(f"--imports {name}" for name in missing)
        raise UsageError(
            f"{error}. {where} was made with custom code, which is not run automatically: if you trust it, add "
            f"{flags} (in Python: import it before)"
        ) from error
