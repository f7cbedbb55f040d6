"""``resnet-jax data check | convert | prepare``: data sets as files, looked at, copied and prepared."""

from __future__ import annotations

import importlib
from typing import Any

from resnet_jax.cli.options import asks_for_help, flags_last, list_verbs
from resnet_jax.errors import UsageError, unknown

#: Sub-verb -> what it does; each is a module ``data_NAME`` beside this one, with ``run(argv)``.
VERBS = {
    "check": "SOURCE: what is in a data set, cannot be read, is in it twice; exit status 1 if it did not pass",
    "convert": "SOURCE OUT.array_record: a copy of any data set as one file, for speed",
    "show": "RECIPE, RUN_DIR or SOURCE: a picture of examples, as stored and as the network sees them",
    "prepare": "NAME: a set of TensorFlow Datasets, downloaded or from files that are here, prepared for tfds:NAME",
}


def run(argv: list[str]) -> dict[str, Any] | None:
    """Do it, and return what was found or written."""
    argv = flags_last(argv)
    if asks_for_help(argv):
        print(list_verbs("data", VERBS, "SOURCE is written as data.source is: folder:PATH, npz:PATH, tfds:NAME, ...\n"))
        return None
    if not argv or argv[0].startswith("-"):
        listed = ", ".join(VERBS)
        raise UsageError(f"name what to do: resnet-jax data VERB ...; verbs: {listed} (data --help)")
    if argv[0] not in VERBS:
        raise unknown("data verb", argv[0], VERBS)
    return importlib.import_module(f"resnet_jax.cli.data_{argv[0]}").run(argv[1:])
