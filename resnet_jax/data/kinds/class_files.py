"""Which files belong to which class and split, by class folders or by a pattern in their paths.

- ``PATH/CLASS/**/FILE``: one split, ``all``;
- ``PATH/train/CLASS/**/FILE`` together with ``PATH/test`` or ``PATH/val`` or both;
- with a pattern, ``PATH/**/FILE`` or ``PATH/train/**/FILE``: the class is the match of its group in the path below the
  folder.

Files are sorted by path, classes by name or in the order of a list. Names that begin with a dot are
ignored; other kinds of files are counted in the notes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnet_jax.data.class_list import Classes, order_classes
from resnet_jax.data.class_pattern import classes_by_pattern, compiled
from resnet_jax.data.index import Stamps
from resnet_jax.data.kinds.files import folder_names, read_text
from resnet_jax.data.layout import NO_CLASSES, alike, shortened, split_of
from resnet_jax.data.listing import LeftOut
from resnet_jax.data.reading import Reading
from resnet_jax.errors import DataError

MAX_LIST_BYTES = 16 << 20


@dataclass(frozen=True)
class FileType:
    """The files of one kind of source.

    Attributes:
        endings: suffixes in lower case, such as ``.wav``.
        plural: the word for them in messages.
    """

    endings: tuple[str, ...]
    plural: str

    def includes(self, name: str) -> bool:
        """Return whether a file of this name is one of them."""
        return name.lower().endswith(self.endings)

    @property
    def layouts(self) -> str:
        """The supported layouts, for messages."""
        end = self.endings[0]
        return (
            f"need PATH/CLASS/*{end}, or PATH/train/CLASS/*{end} with PATH/test or PATH/val beside it; or the class in "
            "the names, found by data.class_pattern"
        )


@dataclass(frozen=True)
class ClassFiles:
    """Files by split, with their classes.

    Attributes:
        paths: split -> files.
        labels: split -> int32 (N,).
        names: names of the classes, in label order.
        notes: what a user should know.
        origins: split -> its folder.
    """

    paths: dict[str, tuple[str, ...]]
    labels: dict[str, np.ndarray]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    origins: dict[str, str] = field(default_factory=dict)


@dataclass
class _Found:
    """What is below one folder: the files, and what was skipped."""

    files: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    loops: list[str] = field(default_factory=list)


def list_class_files(root: Path, kind: FileType, reading: Reading) -> ClassFiles:
    """List the files below a folder; none is opened.

    Raises:
        DataError: if there is no such folder, there are no files, files belong to no class, or classes differ between
            splits.
        UsageError: for an invalid pattern, or one without exactly one group.
    """
    if not root.is_dir():
        what = "this is a file and no folder" if root.exists() else "there is no such folder"
        raise DataError(f"{root}: {what}; {kind.layouts}")
    folders = _split_folders(root, kind)
    found: dict[str, _Found] = {}
    for split, folder in folders.items():
        found[split] = _Found()
        _walk(str(folder), (_identity(folder),), kind, found[split])
        found[split].files.sort()
        if not found[split].files:
            raise DataError(f"{folder}: there are no {kind.plural} in it or below it; {kind.layouts}")
    if reading.class_pattern is None:
        of_file = {split: _by_folder(folders[split], one.files, kind) for split, one in found.items()}
    else:
        pattern = compiled(reading.class_pattern)
        of_file = {
            split: classes_by_pattern(one.files, folders[split], pattern, kind.plural) for split, one in found.items()
        }
    classes = _ordered(of_file, folders, reading)
    place = {key: label for label, key in enumerate(classes.keys)}
    labels = {split: np.array([place[key] for key in found_in], np.int32) for split, found_in in of_file.items()}
    notes = (*classes.notes, *_notes(found, kind))
    if same := alike(classes.names):
        notes += (f"classes that differ in capitals or accents only are told apart: {shortened(same)}",)
    origins = {} if "all" in folders else {split: folder.name for split, folder in folders.items()}
    return ClassFiles({split: tuple(one.files) for split, one in found.items()}, labels, classes.names, notes, origins)


def read_class_list(path: str) -> tuple[str, ...]:
    """Return the names in a list, one per line, in order; empty lines are ignored.

    Raises:
        DataError: if it cannot be read, has no names, or has one twice.
    """
    lines = [line.strip() for line in read_text(Path(path).expanduser(), MAX_LIST_BYTES).splitlines()]
    names = tuple(line for line in lines if line)
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if not names or twice:
        what = f"{shortened(twice)} stand in it more than once" if twice else "there is no name in it"
        raise DataError(f"{path}: {what}; a list of classes (data.class_list) has one name a line, in label order")
    return names


def _split_folders(root: Path, kind: FileType) -> dict[str, Path]:
    names = folder_names(root)
    found = {name: split for name in names if (split := split_of(name)) is not None}
    if "train" not in found.values() or len(set(found.values())) < 2:
        return {"all": root}
    folders: dict[str, Path] = {}
    for name in sorted(found, key=lambda name: (("train", "val", "test").index(found[name]), name)):
        if found[name] in folders:
            raise DataError(f"{root}: both {folders[found[name]].name} and {name} are there; keep one of them")
        folders[found[name]] = root / name
    return folders


def _walk(folder: str, chain: tuple[tuple[int, int], ...], kind: FileType, found: _Found) -> None:
    try:
        with os.scandir(folder) as entries:
            shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot read this folder ({error.strerror or error})") from error
    for entry in shown:
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise DataError(f"{entry.path}: a link that leads nowhere (to {os.readlink(entry.path)})")
        if entry.is_dir():
            if entry.name.casefold() in NO_CLASSES:
                continue
            here = _identity(Path(entry.path))
            if here in chain:
                found.loops.append(entry.path)
            else:
                _walk(entry.path, (*chain, here), kind, found)
        elif kind.includes(entry.name) and entry.is_file():
            if entry.stat().st_size == 0:
                raise DataError(f"{entry.path}: the file is empty (0 bytes); restore it or remove it")
            found.files.append(entry.path)
        else:
            found.left_out.add(entry.name, None)


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _by_folder(folder: Path, files: Sequence[str], kind: FileType) -> list[str]:
    """Return the class of every file: the first folder below ``folder``."""
    below = [os.path.relpath(path, folder).split(os.sep) for path in files]
    flat = [parts[0] for parts in below if len(parts) == 1]
    if flat:
        stem = kind.endings[0]
        hint = f"; if the class is in the names, say where, for example data.class_pattern '([^_/]+)_[^/]*{stem}$'"
        raise DataError(
            f"{folder}: {len(flat):,} {kind.plural} belong to no class folder ({shortened(flat, 3)}){hint}; "
            f"{kind.layouts}"
        )
    empty = sorted(set(folder_names(folder)) - {parts[0] for parts in below})
    if empty:
        raise DataError(f"{folder / empty[0]}: no {kind.plural} in it; a class folder holds {', '.join(kind.endings)}")
    return [parts[0] for parts in below]


def _ordered(of_file: dict[str, list[str]], folders: dict[str, Path], reading: Reading) -> Classes:
    """Return the classes in label order; all splits have the same classes, or they come from a list."""
    first = next(iter(of_file))
    known = set(of_file[first])
    if reading.class_list is not None:
        every = {key for keys in of_file.values() for key in keys}
        return order_classes(every, reading.class_list, Stamps(), least_classes=reading.least_classes, what="class")
    for split, keys in of_file.items():
        missing, extra = sorted(known - set(keys)), sorted(set(keys) - known)
        if extra or missing:
            name, here, there = (missing[0], first, split) if missing else (extra[0], split, first)
            raise DataError(
                f"class {name!r} is in {folders[here]} but not in {folders[there]} ({len(missing)} classes missing and "
                f"{len(extra)} unknown there); all splits need the same classes, or a list of them, data.class_list"
            )
    numbers = reading.class_pattern is not None and all(key.isdecimal() for key in known)
    keys = tuple(sorted(known, key=lambda key: (int(key), key) if numbers else (0, key)))
    return Classes(keys, keys)


def _notes(found: dict[str, _Found], kind: FileType) -> tuple[str, ...]:
    left_out, loops = LeftOut(), []
    for one in found.values():
        left_out.update(one.left_out)
        loops += one.loops
    notes = ()
    if left_out.counts:
        notes += (f"{left_out.counts.total():,} files left out because they are not {kind.plural}: {left_out}",)
    if loops:
        notes += (f"links that lead back to a folder above them are not followed: {shortened(loops, 3)}",)
    return notes
