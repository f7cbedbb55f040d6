"""What verbs are given, looked at before anything slow is loaded: runs, names of published weights, named networks."""

from __future__ import annotations

import sys
from pathlib import Path


def run_directory(given: Path) -> Path:
    """Return ``given``; of the name of published weights, a run directory of these in the cache, fetched if need be.

    A file or folder of that name goes before. What is fetched is said on standard error.

    Raises:
        DataError: the weights cannot be had, or are not what they should be.
        UsageError: a word that is neither, but near to the name of weights, or the name of a network.
    """
    if given.exists() or len(given.parts) != 1:
        return given
    from resnet_jax.weights.published import published

    if (name := str(given)) not in published():
        _suggest(name)
        return given
    from resnet_jax.deploy.hub import run_path

    return run_path(given, say=lambda line: print(line, file=sys.stderr))


def _suggest(name: str) -> None:
    """Raise an error that names the weights which may be meant; of a word that is like none do nothing."""
    import difflib

    from resnet_jax.errors import UsageError, either
    from resnet_jax.models.rows import MODELS
    from resnet_jax.weights.published import published

    rows = published()
    if name in MODELS:
        weights = [row for row in rows if rows[row].model == name]
        known = f"weights of it: {', '.join(weights[:4])}{', ...' if len(weights) > 4 else ''}" if weights else ""
        raise UsageError(
            f"{name} is a network without weights: name a run directory, or one of the weights that "
            f"`resnet-jax weights list` lists{f'; {known}' if known else ''}"
        )
    if near := difflib.get_close_matches(name, rows, 3, 0.7):
        raise UsageError(
            f"{name} is no run directory, and no weights that `resnet-jax weights list` lists are called so; did you "
            f"mean {either(near)}?"
        )


def existing_run(given: Path) -> Path:
    """Return :func:`run_directory`, which holds a run.

    Raises:
        DataError: weights of that name cannot be had, or are not what they should be.
        UsageError: it is no run directory.
    """
    from resnet_jax.runs.directory import RunDirectory

    return RunDirectory.existing(run_directory(given)).path


def require_networks(*names: str) -> None:
    """Refuse names that no network has.

    Raises:
        UsageError: with the nearest.
    """
    from resnet_jax.models.rows import MODELS

    for name in names:
        _ = MODELS[name]
