"""A run directory, or in its place the name of published weights: what verbs take that are given a trained network."""

from __future__ import annotations

import sys
from pathlib import Path


def run_directory(given: Path) -> Path:
    """Return ``given``; of the name of published weights, a run directory of these in the cache, fetched if need be.

    A file or folder of that name goes before. What is fetched is said on standard error.

    Raises:
        DataError: the weights cannot be had, or are not what they should be.
    """
    if given.exists() or len(given.parts) != 1:
        return given
    from resnet_jax.deploy.hub import run_path

    return run_path(given, say=lambda line: print(line, file=sys.stderr))
