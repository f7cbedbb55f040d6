"""The labels of a prepared TFDS set, stored so that not every record is read at each start (150 GB for ImageNet).

They are in the user's cache directory with a fingerprint of the files they were read from: name, size, inode and times
of every shard, and TFDS's metadata of the set. A set that is prepared again has another fingerprint and is read again;
a few records are also compared. Nothing is stored if ``RESNET_JAX_CACHE`` is ``off`` or the directory cannot be
written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.runtime.cache import VARIABLE, cache_directory
from resnet_jax.runtime.plain_files import open_file, read_file
from resnet_jax.runtime.plain_numpy import read_arrays

READ_CHUNK = 1024
"""Number of records read at a time while the labels are collected."""
PROBES = 32
"""Number of evenly spaced records whose labels are compared with the stored ones."""

_log = logging.getLogger(__name__)


def read_labels(source: Any, key: str, builder: Any, split: str) -> np.ndarray:
    """Return the labels of a split, int32 (N,): the stored ones if they belong to these files, otherwise read anew.

    Args:
        source: TFDS's random-access source of the split.
        key: name of the label feature.
        builder: builder of the prepared set.
        split: its name of the split.
    """
    found = fingerprint(builder, split, key)
    path = None if found is None else _path(builder, split, key)
    if path is not None:
        kept = _load(path, str(found))
        if kept is not None and len(kept) == len(source) and _agree(kept, source, key):
            return kept
    labels = _collect(source, range(len(source)), key)
    if path is not None:
        _save(path, str(found), labels)
    return labels


def fingerprint(builder: Any, split: str, key: str) -> str | None:
    """Return what identifies the files of a split; None if they cannot be examined."""
    facts: list[Any] = [1, split, key]
    try:
        directory = Path(builder.data_dir)
        for file in sorted(builder.info.splits[split].filepaths):
            stat = os.stat(file)
            facts.append([os.path.basename(file), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns])
        told = [read_file(directory / name) for name in ("dataset_info.json", "features.json")]
    except (OSError, ValueError, KeyError):  # a set in remote storage, for one
        return None
    return hashlib.sha256(b"".join([json.dumps(facts).encode(), *told])).hexdigest()


def _path(builder: Any, split: str, key: str) -> Path | None:
    if os.environ.get(VARIABLE, "").lower() == "off":
        return None
    try:
        folder = cache_directory() / "labels"
    except (OSError, RuntimeError):  # no home directory
        return None
    place = json.dumps([os.path.abspath(builder.data_dir), split, key])
    return folder / f"{hashlib.sha256(place.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.npz"


def _load(path: Path, found: str) -> np.ndarray | None:
    try:
        with open_file(path) as file:
            kept = read_arrays(file)
            labels = kept["labels"]
            return labels if str(kept["fingerprint"]) == found and labels.dtype == np.int32 else None
    except (OSError, ValueError, KeyError):  # not there, or spoilt
        return None


def _agree(kept: np.ndarray, source: Any, key: str) -> bool:
    indices = np.unique(np.linspace(0, len(kept) - 1, PROBES).astype(int)) if len(kept) else np.array([], int)
    return bool((_collect(source, indices.tolist(), key) == kept[indices]).all())


def _save(path: Path, found: str, labels: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        with partial.open("wb") as file:
            np.savez(file, labels=labels, fingerprint=np.array(found))
        partial.replace(path)
    except OSError as error:
        _log.warning(
            "labels are not stored, and will be read again next time: %s: %s", path.parent, error.strerror or error
        )


def _collect(source: Any, indices: Any, key: str) -> np.ndarray:
    chunks = (list(indices[start : start + READ_CHUNK]) for start in range(0, len(indices), READ_CHUNK))
    return np.array([record[key] for chunk in chunks for record in source.__getitems__(chunk)], np.int32)
