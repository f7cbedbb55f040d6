"""Images whose class is in their names: ``data.class_pattern``, such as ``"^([a-z]+)_"`` for ``cat_0001.jpg``.

The pattern is a regular expression with one group. It is matched (``re.search``) against the path below the folder,
with ``/`` between its parts; below the folder of the split, if there is ``PATH/train`` with a held-out split beside it.
The match of the group is the class. Classes are sorted, numbers as numbers, or in the order of ``data.class_list``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from resnet_jax.data.class_folders import Summary
from resnet_jax.data.class_list import Classes, order_classes
from resnet_jax.data.index import Index, Part
from resnet_jax.data.layout import shortened, split_of
from resnet_jax.data.listing import Lister
from resnet_jax.data.path_table import TableBuilder
from resnet_jax.data.reading import Reading
from resnet_jax.errors import DataError, UsageError


def index_by_pattern(lister: Lister, reading: Reading) -> Index:
    """List the images below a folder, with the classes that a pattern finds in their names.

    Args:
        lister: the lister of the folder.
        reading: how it is read, including the pattern.

    Raises:
        UsageError: if it is not a pattern with one group.
        DataError: if images do not match, a class only occurs in a held-out split, or there are no images.
    """
    pattern = compiled(reading.class_pattern or "")
    folders = _folders(lister)
    summary, tables, sizes, found = Summary(lister.root), {}, {}, {}
    for split, folder in folders.items():
        listing = lister.images(folder)
        if not listing.paths:
            raise DataError(f"{folder}: there are no images in it")
        found[split] = classes_by_pattern(listing.paths, folder, pattern)
        listing.nested, listing.subfolders = 0, []  # folders are of no meaning here
        summary.add(str(folder), listing)
        builder = TableBuilder()
        builder.add(summary.relative(listing.paths))
        tables[split], sizes[split] = builder.table(summary.prefix), listing.bytes
    classes, notes = _ordered(found, lister, reading), []
    label_of = {key: label for label, key in enumerate(classes.keys)}
    parts = {
        split: Part(tables[split], np.array([label_of[name] for name in names], np.int32), sizes[split])
        for split, names in found.items()
    }
    for split, names in found.items():
        absent = sorted(set(classes.keys) - set(names))
        if split != "all" and absent:
            notes.append(f"{split} has no images of {shortened(absent)} ({len(absent):,} classes)")
    notes += [*classes.notes, *summary.notes()]
    origins = {} if "all" in folders else {split: folder.name for split, folder in folders.items()}
    return Index(parts, classes.names, tuple(notes), origins)


def compiled(pattern: str) -> re.Pattern[str]:
    """Return a compiled pattern.

    Raises:
        UsageError: if it is not a regular expression with exactly one group.
    """
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"data.class_pattern {pattern!r} is no regular expression: {error}") from error
    if found.groups != 1:
        raise UsageError(
            f"data.class_pattern {pattern!r} has {found.groups} groups; need one, which finds the class, such as "
            "'^([a-z]+)_' for cat_0001.jpg ('(?:...)' is no group)"
        )
    return found


def _folders(lister: Lister) -> dict[str, Path]:
    """Return the folders of splits, or the whole folder as ``all``."""
    splits: dict[str, Path] = {}
    for name in lister.folders(lister.root):
        split = split_of(name)
        if split is not None and split in splits:
            raise DataError(f"{lister.root}: both {splits[split].name} and {name} are there; keep one of them")
        if split is not None:
            splits[split] = lister.root / name
    if "train" not in splits or len(splits) == 1:
        return {"all": lister.root}
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def classes_by_pattern(
    paths: Iterable[str], folder: Path, pattern: re.Pattern[str], files: str = "images"
) -> list[str]:
    """Return the class of every file: the group's match in its path below the folder.

    Args:
        paths: paths of files below the folder.
        folder: the folder of all of them, or of their split.
        pattern: the pattern with one group.
        files: the word for them in messages.

    Raises:
        DataError: if files do not match.
    """
    start, classes, without = len(str(folder)) + 1, [], []
    for path in paths:
        below = path[start:].replace(os.sep, "/")
        match = pattern.search(below)
        if match is None or not match[1]:
            without.append(below)
        else:
            classes.append(match[1])
    if without:
        raise DataError(
            f"{folder}: data.class_pattern {pattern.pattern!r} finds no class in {shortened(map(repr, without), 3)} "
            f"({len(without):,} of {len(without) + len(classes):,} {files}); it must match all of them, or the others "
            "must lie elsewhere"
        )
    return classes


def _ordered(found: dict[str, list[str]], lister: Lister, reading: Reading) -> Classes:
    """Return the classes in label order."""
    reference = next(iter(found))
    known = set(found[reference])
    for split, names in found.items():
        if only := sorted(set(names) - known):
            raise DataError(
                f"{lister.root}: the classes {shortened(only)} are in {split} but not in {reference}, which a network "
                "learns from"
            )
    classes = order_classes(known, reading.class_list, lister.stamps, least_classes=reading.least_classes, what="name")
    if reading.class_list is None and all(name.isdecimal() for name in known):
        numbers = tuple(sorted(known, key=lambda name: (int(name), name)))
        classes = Classes(numbers, numbers)
    if len(known) < reading.least_classes:
        raise DataError(
            f"{lister.root}: data.class_pattern {reading.class_pattern!r} finds the class {shortened(known)} in all "
            "names; need at least two to tell apart"
        )
    return classes
