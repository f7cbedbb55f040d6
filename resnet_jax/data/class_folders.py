"""Images in class folders: which folders are splits and which are classes, and notes about everything else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnet_jax.data.annotations import CLS_LOC, KAGGLE, Annotations, find_annotations
from resnet_jax.data.class_list import order_classes
from resnet_jax.data.formats import READABLE
from resnet_jax.data.index import Index, Part
from resnet_jax.data.layout import LAYOUTS, alike, check_class_names, folded, shortened, split_of
from resnet_jax.data.listing import LeftOut, Lister, Listing
from resnet_jax.data.path_table import TableBuilder
from resnet_jax.data.reading import Reading
from resnet_jax.errors import DataError

MASK_ENDINGS = ("_mask", "-mask", "_seg", "_segmentation", "_label", "_gt", "_annotation")


def index_class_folders(lister: Lister, reading: Reading) -> Index:
    """List the images of class folders.

    Args:
        lister: the lister of the folder.
        reading: how it is read.

    Raises:
        DataError: for another layout, an empty class, or classes that differ between splits.
    """
    root, notes = _place_of_classes(lister, reading.least_classes)
    folders = _split_folders(root, lister)
    annotated, left_out = _annotated(root, folders, lister)
    folders = {split: folder for split, folder in folders.items() if folder not in left_out}
    names = {split: lister.folders(folder) for split, folder in folders.items() if split not in annotated}
    reference = next(iter(names))
    _check_classes(folders, names, lister)
    only = names[reference][0]
    if len(names[reference]) < reading.least_classes or (
        len(names[reference]) == 1 and lister.folders(folders[reference] / only)
    ):
        raise DataError(_one_class(folders[reference], only, lister))
    classes = order_classes(names[reference], reading.class_list, lister.stamps, least_classes=reading.least_classes)
    label_of = {key: label for label, key in enumerate(classes.keys)}
    parts, summary = {}, Summary(lister.root)
    for split, folder in folders.items():
        if split in annotated:
            parts[split], said = _annotated_part(lister, folder, annotated[split], label_of, summary)
            notes += said
        else:
            parts[split] = _part(lister, folder, classes.keys, set(names[split]), summary)
    notes += [*classes.notes, *summary.notes()]
    notes += _notes_of_folders(root, folders, left_out, names[reference], lister)
    origins = {} if "all" in folders else {split: folder.name for split, folder in folders.items()}
    return Index(parts, classes.names, tuple(notes), origins)


def _place_of_classes(lister: Lister, least_classes: int) -> tuple[Path, list[str]]:
    """Descend to the classes or splits: into a single folder, which cannot be a class to train on."""
    root = lister.root
    if (root / CLS_LOC).is_dir():
        return root / CLS_LOC, [f"the images are those of {CLS_LOC}, as Kaggle distributes ImageNet"]
    while least_classes > 1 and len(names := lister.folders(root)) == 1:
        only = root / names[0]
        if split_of(names[0]) or not lister.folders(only) or lister.files(only)[0] or lister.files(root)[0]:
            break
        root = only
    if root == lister.root:
        return root, []
    return root, [f"the class folders are one deeper or more, in {root.relative_to(lister.root)}"]


def _check_classes(folders: dict[str, Path], classes: dict[str, list[str]], lister: Lister) -> None:
    for split, names in classes.items():
        if not names:
            raise DataError(
                f"{folders[split]}: no class folders in it, which holds {_holding(folders[split], lister)}; {LAYOUTS}"
            )
        check_class_names(folders[split], names)
    reference = next(iter(classes))
    for split, names in classes.items():
        _check_same_classes(folders[reference], classes[reference], folders[split], names)


def _annotated(root: Path, folders: dict[str, Path], lister: Lister) -> tuple[dict[str, Annotations], tuple[Path, ...]]:
    """Return the annotations of held-out splits without class folders, and the folders without any labels.

    A split without labels is only left out beside one with annotations, as in published data sets.
    """
    flat = {
        split: folder
        for split, folder in folders.items()
        if split in ("val", "test") and lister.folders(folder) in ([], ["images"])
    }
    found = {}
    for split, folder in flat.items():
        annotations = find_annotations(root, folder, lister.stamps) if split == "val" else None
        if annotations is not None:
            found[split] = annotations
    left_out = tuple(folder for split, folder in flat.items() if found and split not in found)
    return found, left_out


def _annotated_part(
    lister: Lister, folder: Path, annotations: Annotations, label_of: dict[str, int], summary: Summary
) -> tuple[Part, tuple[str, ...]]:
    listing = lister.images(folder)
    if not listing.paths:
        raise DataError(f"{folder}: no images in it, though {annotations.file} names some")
    labels, notes = annotations.labels(listing.paths, label_of)
    listing.nested, listing.subfolders = 0, []  # no class folders that they would be nested in
    summary.add(str(folder), listing)
    builder = TableBuilder()
    builder.add(summary.relative(listing.paths))
    return Part(builder.table(summary.prefix), np.array(labels, np.int32), listing.bytes), notes


def _part(lister: Lister, folder: Path, keys: Sequence[str], there: set[str], summary: Summary) -> Part:
    """List the images of a split, class after class in label order."""
    builder, counts, size = TableBuilder(), np.zeros(len(keys), int), 0
    for label, name in enumerate(keys):
        if name not in there:
            continue
        listing = _list_class(folder / name, lister)
        summary.add(f"{folder}/{name}", listing)
        builder.add(summary.relative(listing.paths))
        counts[label] = len(listing.paths)
        size += listing.bytes
    return Part(builder.table(summary.prefix), np.repeat(np.arange(len(keys), dtype=np.int32), counts), size)


def _one_class(folder: Path, name: str, lister: Lister) -> str:
    """Return advice about a folder with a single class folder in it: usually it is the wrapper of an archive."""
    inside = lister.folders(folder / name)
    hint = f"; if the class folders are those in it ({shortened(inside, 3)}), write folder:{folder / name}"
    there = hint if inside else f", it holds {_contents(folder / name, lister)}"
    return f"{folder}: the only class folder is {name}; need at least two to tell apart{there}; {LAYOUTS}"


def _contents(folder: Path, lister: Lister) -> str:
    images, _ = lister.files(folder)
    return f"{len(images):,} images" if images else _holding(folder, lister)


def _split_folders(root: Path, lister: Lister) -> dict[str, Path]:
    names = lister.folders(root)
    found = {name: split for name in names if (split := split_of(name)) is not None}
    train = [name for name, split in found.items() if split == "train" and lister.folders(root / name)]
    if not train:  # "train" may also be a class: a vehicle
        if names and len(found) == len(names):
            holding = ", ".join(f"{name} holds {_holding(root / name, lister)}" for name in names[:3])
            raise DataError(f"{root}: holds {', '.join(names)} but no train with class folders ({holding}); {LAYOUTS}")
        return {"all": root}
    folders: dict[str, Path] = {}
    for name in sorted(found, key=lambda name: (("train", "val", "test").index(found[name]), name)):
        split = found[name]
        if split in folders:
            raise DataError(f"{root}: both {folders[split].name} and {name} are there; keep one of them")
        folders[split] = root / name
    if len(folders) == 1:
        raise DataError(
            f"{root}: {train[0]} has neither test nor val beside it (found {', '.join(names)}); "
            f"name {root / train[0]} itself to have the splits taken from it"
        )
    return folders


def _check_same_classes(reference: Path, expected: list[str], folder: Path, found: list[str]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        name, present, absent = (missing[0], reference, folder) if missing else (extra[0], folder, reference)
        others = found if missing else expected
        close = [other for other in others if folded(other) == folded(name)]
        hint = f"; {close[0]!r} there is written otherwise: rename one of them" if close else ""
        raise DataError(
            f"class {name!r} is in {present} but not in {absent} ({len(missing)} classes missing and "
            f"{len(extra)} unknown in {folder}){hint}; all splits need the same class folders"
        )


def _list_class(folder: Path, lister: Lister) -> Listing:
    listing = lister.images(folder)
    if not listing.paths:
        there = f"{sum(listing.left_out.counts.values()):,} files, none an image: {listing.left_out}"
        what = there if listing.left_out.counts else "it is empty"
        raise DataError(f"{folder}: no images in it ({what}); a class folder holds {READABLE} files")
    return listing


def _holding(folder: Path, lister: Lister) -> str:
    """Describe the contents of a folder without class folders."""
    if names := lister.folders(folder):
        return f"the folders {shortened(names, 3)}"
    images, others = lister.files(folder)
    if images:
        return (
            f"{len(images):,} images that belong to no class: sort them into one folder a class, or say by "
            "data.class_pattern where their names have it"
        )
    return f"{sum(others.counts.values()):,} files: {others}" if others.counts else "nothing"


@dataclass
class Summary:
    """Statistics on the files of all class folders; their paths are not kept."""

    root: Path
    left_out: LeftOut = field(default_factory=LeftOut)
    images: int = 0
    nested: int = 0
    subfolders: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)

    def add(self, folder: str, listing: Listing) -> None:
        """Count what is below a folder."""
        self.left_out.update(listing.left_out)
        self.images += len(listing.paths)
        self.nested += listing.nested
        self.subfolders += self.relative([f"{folder}/{name}" for name in listing.subfolders])
        self.loops += listing.loops
        self.masks += _masks(listing.paths)

    def relative(self, paths: list[str]) -> list[str]:
        """Return paths relative to the folder of the data set."""
        return [path[len(self.prefix) :] for path in paths]

    @property
    def prefix(self) -> str:
        """The common prefix of all paths."""
        return "" if str(self.root) == "." else f"{str(self.root).rstrip(os.sep)}{os.sep}"

    def notes(self) -> list[str]:
        """Return notes on what is left out and what is read from deeper folders, one line each."""
        notes = []
        if self.left_out.counts:
            others = sum(self.left_out.counts.values())
            total = self.images + others
            notes.append(f"{others:,} of {total:,} files skipped because they are not images: {self.left_out}")
        if self.nested:
            short = shortened(self.subfolders, 3)
            notes.append(f"{self.nested:,} of {self.images:,} images lie in subfolders of their class folder: {short}")
        if self.loops:
            notes.append(f"links that lead back to a folder above them are not followed: {shortened(self.loops, 3)}")
        if self.masks:
            names = shortened((Path(path).name for path in self.masks), 3)
            notes.append(
                f"{len(self.masks):,} of {self.images:,} images are named like masks of others beside them and are "
                f"read as images: {names}"
            )
        return notes


def _masks(paths: list[str]) -> list[str]:
    """Return the files named like another one with ``_mask`` or similar at the end."""
    named = [path for path in paths if path.rpartition(".")[0].lower().endswith(MASK_ENDINGS)]
    stems = {path.rpartition(".")[0] for path in paths} if named else set()
    return [
        path
        for path in named
        for stem in [path.rpartition(".")[0]]
        if any(stem.lower().endswith(ending) and stem[: -len(ending)] in stems for ending in MASK_ENDINGS)
    ]


def _notes_of_folders(
    root: Path, folders: dict[str, Path], unlabelled: tuple[Path, ...], classes: list[str], lister: Lister
) -> list[str]:
    """Return notes on what is beside the class folders and splits, and which classes are easily confused."""
    notes = []
    for folder in unlabelled:
        count = len(lister.images(folder).paths)
        notes.append(f"{count:,} images of {folder.name} left out: nothing says of which class they are")
    if "all" not in folders:
        known = {*folders.values(), *unlabelled}
        others = [name for name in lister.folders(root) if root / name not in known]
        if others:
            notes.append(f"folders left out beside the splits: {shortened(others)}")
    for folder in dict.fromkeys((root, *folders.values())):
        images, _ = lister.files(folder)
        if images and not (folder / KAGGLE).exists() and lister.folders(folder):
            notes.append(f"{len(images):,} images left out that lie beside the class folders of {folder}: no class")
    if same := alike(classes):
        notes.append(f"classes that differ in capitals or accents only are told apart: {shortened(same)}")
    return notes
