"""One line names a data set: ``digits``, ``folder:PATH``, ``npz:PATH`` or ``tfds:NAME[@DATA_DIR]``."""

from __future__ import annotations

import os
from pathlib import Path

from resnet_jax.data.decode import check_channels
from resnet_jax.data.found import describe_path
from resnet_jax.data.records import Dataset
from resnet_jax.errors import UsageError, unknown

KINDS = {
    "digits": "digits",
    "folder": "folder:PATH",
    "npz": "npz:PATH",
    "tfds": "tfds:NAME or tfds:NAME@DATA_DIR",
}


def load_dataset(spec: str, *, channels: int | None = None, least_classes: int = 2) -> Dataset:
    """Open a data set. Arrays are read at once; folders and TFDS are listed now and decoded when asked.

    Args:
        spec: what to open, see the modules `digits`, `folder`, `npz` and `tfds`.
        channels: 1 for grey, 3 for RGB, None for what is stored (RGB for a folder).
        least_classes: 2 to train on, which has to tell classes apart; 1 for images to evaluate a network on.

    Raises:
        UsageError: the spec or ``channels`` is not understood; of a path alone it says what lies there and what to
        type.
        DataError: the data is missing, empty, unreadable or inconsistent.

    >>> digits = load_dataset("digits")
    >>> len(digits.splits["all"]), digits.num_classes, digits.splits["all"].image(0).shape
    (1797, 10, (8, 8, 1))
    """
    check_channels(channels)
    kind, colon, location = spec.partition(":")
    if kind not in KINDS:
        raise _no_kind(spec, kind)
    if bool(location) != (kind != "digits") or (colon and not location):
        raise UsageError(f"data source {spec!r} is not complete; write {KINDS[kind]}")
    match kind:
        case "digits":
            from resnet_jax.data.digits import load_digits

            return load_digits(channels)
        case "folder":
            from resnet_jax.data.folder import load_folder

            return load_folder(location, channels, least_classes)
        case "npz":
            from resnet_jax.data.npz import load_npz

            return load_npz(location, channels, least_classes)
        case _:
            from resnet_jax.data.tfds import load_tfds

            return load_tfds(location, channels, least_classes)


def is_gone(spec: str) -> bool:
    """Return whether a data set is looked for at a path where nothing is.

    >>> is_gone("digits"), is_gone("npz:nowhere/x.npz"), is_gone("tfds:mnist@nowhere")
    (False, True, True)
    """
    kind, _, location = spec.partition(":")
    if kind == "tfds":
        location = location.partition("@")[2]
    return bool(location) and not Path(location).expanduser().exists()


def _no_kind(spec: str, kind: str) -> UsageError:
    """Build the error for a source of no known kind, most often a path alone."""
    if kind in ("http", "https", "s3", "gs", "ftp", "hf"):
        return UsageError(
            f"data source {spec!r}: nothing is downloaded; fetch it first, then one of {', '.join(KINDS.values())}"
        )
    try:
        path = Path(spec).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError, ValueError):  # no path at all, such as one with a null byte
        return unknown("data source", kind, KINDS)
    if exists:
        return UsageError(f"data source {spec!r} has no kind before the path; {describe_path(path)}")
    if ":" not in spec and (os.sep in spec or path.suffix or spec.startswith("~")):
        return UsageError(
            f"data source {spec!r}: there is no such file or folder, and no kind before it; write "
            f"{', '.join(KINDS.values())}"
        )
    return unknown("data source", kind, KINDS)
