"""Resolution of run directories, published weights and networks by name, before anything slow is loaded."""

from __future__ import annotations

import sys
from pathlib import Path


def run_directory(given: Path) -> Path:
    """Return ``given``, or for the name of published weights the run directory in the cache, fetched first if
    necessary.

    A file or folder of that name takes precedence. Downloads are reported on standard error.

    Raises:
        DataError: if the weights cannot be fetched, or their checksum is wrong.
        UsageError: if the word is neither, but close to the name of published weights, or is the name of a network.
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
    """Raise an error that suggests similar weights, if there are any."""
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
    """Return :func:`run_directory`, and make sure that it contains a run.

    Raises:
        DataError: if the weights of that name cannot be fetched, or their checksum is wrong.
        UsageError: if it is not a run directory.
    """
    from resnet_jax.runs.directory import RunDirectory

    return RunDirectory.existing(run_directory(given)).path


def require_networks(*names: str) -> None:
    """Reject unknown network names.

    Raises:
        UsageError: if a name is unknown; it suggests the nearest ones.
    """
    from resnet_jax.models.rows import MODELS

    for name in names:
        _ = MODELS[name]
