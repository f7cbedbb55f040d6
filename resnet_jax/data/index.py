"""The index of a folder or table of files, paths and labels, stored so that a million files are not listed twice.

It is in the user's cache directory, with a stamp of everything that it was made from: for every folder its modification
time and a digest of the names in it, for every table its contents. A file that is added, removed or renamed changes
both stamps of its folder, and everything is listed again. A file that is rewritten in place keeps its path and label,
and so does the index; only the total size of the files, which decides whether they are decoded once before training, is
then outdated. A damaged index is rebuilt: it contains a digest of itself.

Opening it reads the names in all folders, but nothing of the files. Indices of fewer than 10,000 files are not stored,
and none are if ``RESNET_JAX_CACHE`` is ``off`` or the directory cannot be written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.path_table import PathTable
from resnet_jax.errors import DataError
from resnet_jax.runtime.cache import VARIABLE, cache_directory
from resnet_jax.runtime.plain_files import open_file, read_file
from resnet_jax.runtime.plain_json import load_json
from resnet_jax.runtime.plain_numpy import read_arrays
from resnet_jax.tasks.facts import LabelKind

VERSION = 2
"""Version of the stored data and of the rules for reading folders; another version means another index."""
LEAST_KEPT = 10_000
"""Number of files from which an index is stored: fewer are listed in a moment."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """The files of one split.

    Attributes:
        paths: N files.
        labels: int32 (N,) for classes, float32 (N, K) for multi-label or values.
        bytes: total size of the files.
        groups: the group of each, such as a patient, if known: strings (N,).
        fields: further classes, int32 (N,) with -1 for none, and numbers, float32 (N,) with NaN for none.
    """

    paths: PathTable
    labels: np.ndarray
    bytes: int
    groups: np.ndarray | None = None
    fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Files and labels of a data set, and notes about them.

    Attributes:
        parts: split -> its files.
        class_names: class names in label order.
        notes: one line each.
        origins: split -> its folder.
        kind: what the labels are.
        field_names: names of the classes of further fields.
    """

    parts: Mapping[str, Part]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    kind: LabelKind = "class"
    field_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Memory in bytes that paths and labels take."""
        return sum(part.paths.nbytes + part.labels.nbytes for part in self.parts.values())

    def __len__(self) -> int:
        return sum(len(part.labels) for part in self.parts.values())


class Stamps:
    """What an index was made from: folders and tables in their state at that time."""

    def __init__(self, folders: Mapping[str, list[Any]] | None = None, files: Mapping[str, str] | None = None):
        self.folders, self.files = dict(folders or {}), dict(files or {})

    def add_folder(self, folder: str, changed: int, names: Iterable[str]) -> None:
        """Record a folder by its modification time in nanoseconds, read before its names, and the names, in order."""
        self.folders[os.path.abspath(folder)] = [changed, _digest_of_names(names)]

    def add_file(self, path: str | Path, content: bytes) -> None:
        """Record a table by its contents."""
        self.files[os.path.abspath(path)] = hashlib.sha256(content).hexdigest()

    def hold(self) -> bool:
        """Return whether everything is unchanged."""
        try:
            for folder, (changed, digest) in self.folders.items():
                if os.stat(folder).st_mtime_ns != changed or _digest_of_names(os.listdir(folder)) != digest:
                    return False
            for path, digest in self.files.items():
                if hashlib.sha256(read_file(path)).hexdigest() != digest:
                    return False
        except OSError:
            return False
        return True


def read_table(path: Path, stamps: Stamps) -> bytes:
    """Return the contents of a table of labels or names, and record it.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror or error})") from error
    stamps.add_file(path, content)
    return content


def kept_index(facts: list[Any], build: Callable[[Stamps], Index]) -> Index:
    """Return an index: the stored one if nothing has changed since, otherwise a new one.

    Args:
        facts: what determines the index besides what is stamped: location and reading options.
        build: builds it, recording everything that it reads.
    """
    key = hashlib.sha256(json.dumps([VERSION, *facts]).encode("utf-8", "surrogateescape")).hexdigest()
    path = _path(key)
    if path is not None and (kept := _load(path, key)) is not None and kept[1].hold():
        return kept[0]
    stamps = Stamps()
    index = build(stamps)
    if path is not None and len(index) >= LEAST_KEPT:
        _save(path, key, index, stamps)
    return index


def _digest_of_names(names: Iterable[str]) -> str:
    return hashlib.blake2b(b"\0".join(map(os.fsencode, names)), digest_size=16).hexdigest()


def _path(key: str) -> Path | None:
    if os.environ.get(VARIABLE, "").lower() == "off":
        return None
    try:
        return cache_directory() / "indices" / f"{key[:16]}.npz"
    except (OSError, RuntimeError):  # no home directory
        return None


def _digest(about: bytes, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(about)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).view(np.uint8).data if arrays[name].size else b"")
    return digest.hexdigest()


def _save(path: Path, key: str, index: Index, stamps: Stamps) -> None:
    about = json.dumps(
        {
            "key": key,
            "splits": {split: [part.bytes, part.paths.prefix] for split, part in index.parts.items()},
            "class_names": index.class_names,
            "notes": index.notes,
            "origins": dict(index.origins),
            "kind": index.kind,
            "field_names": dict(index.field_names),
            "folders": stamps.folders,
            "files": stamps.files,
        }
    ).encode()
    arrays = {}
    for split, part in index.parts.items():
        found = {"names": part.paths.names, "starts": part.paths.starts, "labels": part.labels}
        found |= {} if part.groups is None else {"groups": part.groups}
        found |= {f"field.{name}": values for name, values in part.fields.items()}
        arrays |= {f"{split}.{name}": array for name, array in found.items()}
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            sealed = {"about": np.frombuffer(about, np.uint8), "digest": np.array(_digest(about, arrays))}
            np.savez(file, allow_pickle=False, **arrays, **sealed)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        _log.warning(
            "the index is not stored, and will be rebuilt next time: %s: %s", path.parent, error.strerror or error
        )


def _load(path: Path, key: str) -> tuple[Index, Stamps] | None:
    """Return the stored index; None if it does not exist, is incomplete, or belongs to something else."""
    try:
        with open_file(path) as file:
            arrays = read_arrays(file)
        about, digest = arrays.pop("about").tobytes(), str(arrays.pop("digest"))
        if _digest(about, arrays) != digest:
            return None
        found = load_json(about)
        if found["key"] != key:
            return None
        parts = {}
        for split, (size, prefix) in found["splits"].items():
            paths = PathTable(prefix, arrays[f"{split}.names"], arrays[f"{split}.starts"])
            of_split, start = (paths, arrays[f"{split}.labels"], size, arrays.get(f"{split}.groups")), f"{split}.field."
            fields = {name.removeprefix(start): each for name, each in arrays.items() if name.startswith(start)}
            parts[split] = Part(*of_split, fields)
        names = {name: tuple(each) for name, each in found["field_names"].items()}
        about = tuple(found["class_names"]), tuple(found["notes"]), found["origins"], found["kind"], names
        index = Index(parts, *about)
        return index, Stamps(found["folders"], found["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
