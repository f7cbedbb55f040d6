"""One line names a data set: ``digits``, ``folder:PATH``, ``npz:PATH``, ``manifest:PATH``, ``array_record:PATH``,
``tfds:NAME[@DATA_DIR]``, or ``KIND:LOCATION`` of a kind that was registered
(:func:`resnet_jax.data.registry.register_source`).
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from resnet_jax.data.decode import check_channels
from resnet_jax.data.found import describe_path
from resnet_jax.data.reading import OPTIONAL, Reading
from resnet_jax.data.records import Dataset
from resnet_jax.data.registry import KINDS, find_source, users_of
from resnet_jax.errors import UsageError, unknown

ARRAYS = "arrays"
"""The source of a run whose data came from Python and is in no file."""


def load_dataset(spec: str, reading: Reading | None = None, **wanted: Any) -> Dataset:
    """Open a data set. Arrays are read immediately; folders and TFDS are listed now and decoded on access.

    Args:
        spec: what to open, see the modules `digits`, `folder`, `npz`, `manifest` and `tfds`.
        reading: how it is read.
        wanted: fields of it by name, such as ``channels=1``.

    Raises:
        UsageError: if the spec or ``channels`` is invalid, or an option is not supported by this kind of source; for a
        bare path, the message says what is there and what to type.
        DataError: if the data is missing, empty, unreadable or inconsistent.

    >>> digits = load_dataset("digits")
    >>> len(digits.splits["all"]), digits.num_classes, digits.splits["all"].image(0).shape
    (1797, 10, (8, 8, 1))
    """
    reading = dataclasses.replace(reading or Reading(), **wanted)
    kind, colon, location = spec.partition(":")
    if kind in ("digits", "folder", "tfds"):
        check_channels(reading.channels)
    if spec == ARRAYS:
        raise UsageError(
            "data source 'arrays' lay in the memory of the Python program that trained on it: give it again, "
            "fit(config, data=(x, y)) or evaluate_run(path, data=(x, y)), or name a source"
        )
    found = find_source(kind)
    if found is None:
        raise _no_kind(spec, kind)
    if bool(location) != (":" in found.form) or (colon and not location):
        raise UsageError(f"data source {spec!r} is not complete; write {found.form}")
    for name in OPTIONAL:
        if getattr(reading, name) != getattr(Reading(), name) and name not in found.uses:
            users = ", ".join(users_of(name)) or "no source here"
            raise UsageError(f"data.{name} {getattr(reading, name)} is not used by {found.form}, but by {users}")
    return found.load(location, reading)


def carried_over(reading: Reading, spec: str) -> Reading:
    """Return which reading options of one source apply to another: not its lists of classes, nor unused ones.

    >>> carried_over(Reading(3, orientation="exif", class_list="names.txt"), "npz:x.npz") == Reading(3)
    True
    """
    found = find_source(spec.partition(":")[0])
    uses = () if found is None else found.uses
    dropped = {name for name in OPTIONAL if name not in uses} | {"class_pattern", "class_list"}
    return dataclasses.replace(reading, **{name: getattr(Reading(), name) for name in dropped})


def is_gone(spec: str) -> bool:
    """Return whether a data set is expected at a path that does not exist.

    >>> is_gone("digits"), is_gone("npz:nowhere/x.npz"), is_gone("tfds:mnist@nowhere")
    (False, True, True)
    >>> is_gone("pairs:digits+digits"), is_gone("pairs:digits+wav:nowhere")
    (False, True)
    """
    kind, _, location = spec.partition(":")
    if kind == "pairs":
        from resnet_jax.data.kinds.pairs import sides_of

        return any(is_gone(side) for side in sides_of(location)[:2])
    if kind == "tfds":
        location = location.partition("@")[2]
    elif kind == "coco" and ".json@" in location:
        location = location.partition(".json@")[0] + ".json"
    return bool(location) and not Path(location).expanduser().exists()


def _no_kind(spec: str, kind: str) -> UsageError:
    """Build the error for a source of unknown kind, most often a bare path."""
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
