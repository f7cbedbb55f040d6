"""``resnet-jax data check | show | convert | prepare``: check, draw, copy and prepare data sets."""

from __future__ import annotations

import importlib
from typing import Any

from resnet_jax.cli.options import asks_for_help, flags_last, list_verbs
from resnet_jax.errors import UsageError, unknown

#: Sub-verb -> what it does. Each is a module ``data_NAME`` beside this one, with ``run(argv)``.
VERBS = {
    "check": "SOURCE: report contents, unreadable examples and duplicates; exit status 1 on failure",
    "convert": "SOURCE OUT.array_record: copy any data set into one file, for speed",
    "show": "RECIPE, RUN_DIR or SOURCE: draw examples, as stored and as the network sees them",
    "prepare": "NAME: prepare a TensorFlow Datasets set for tfds:NAME, by download or from local files",
}


def run(argv: list[str]) -> dict[str, Any] | None:
    """Run a sub-verb and return what it found or wrote."""
    argv = flags_last(argv)
    if asks_for_help(argv):
        print(list_verbs("data", VERBS, "SOURCE is written as in data.source: folder:PATH, npz:PATH, tfds:NAME, ...\n"))
        return None
    if not argv or argv[0].startswith("-"):
        listed = ", ".join(VERBS)
        raise UsageError(f"name what to do: resnet-jax data VERB ...; verbs: {listed} (data --help)")
    if argv[0] not in VERBS:
        raise unknown("data verb", argv[0], VERBS)
    return importlib.import_module(f"resnet_jax.cli.data_{argv[0]}").run(argv[1:])
