"""``folder:PATH``: image files below a folder, with the classes in the names of folders or files.

=====================================================================  ========================================
layout                                                                 what is read
=====================================================================  ========================================
``PATH/CLASS/*.jpg``                                                   one split, ``all``
``PATH/train/CLASS/*.jpg`` with ``PATH/test`` or ``PATH/val`` or both  these splits
the same below the only folder of PATH                                 the same, and the notes say so
``PATH/cat_001.jpg`` with ``data.class_pattern``                       see :mod:`resnet_jax.data.class_pattern`
Tiny ImageNet, ImageNet with its devkit, ImageNet of Kaggle            see :mod:`resnet_jax.data.annotations`
=====================================================================  ========================================

Splits may also be named ``training``, ``testing``, ``valid`` and ``validation``, in any case.

Classes are the folder names in sorted order, or those of ``data.class_list`` in its order; images are in sorted order,
so that labels and indices do not depend on the file system. Images in subfolders of a class folder belong to the class.
A file is an image according to its suffix or its first bytes (see :mod:`resnet_jax.data.formats`); all other files are
counted in the data set's notes. Names that begin with a dot are ignored. Links are followed, except back to a folder
above them; those that point outside PATH are reported in the notes. The index of many files is stored
(:mod:`resnet_jax.data.index`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.class_folders import index_class_folders
from resnet_jax.data.class_pattern import compiled, index_by_pattern
from resnet_jax.data.encoded import decode_file, read_bytes
from resnet_jax.data.example import Example, Field, Spec, encoded_spec, spec_of
from resnet_jax.data.formats import HEAD_BYTES, identify
from resnet_jax.data.index import Index, Stamps, kept_index
from resnet_jax.data.layout import LAYOUTS, shortened
from resnet_jax.data.listing import Lister
from resnet_jax.data.reading import Orientation, Pixels, Reading
from resnet_jax.data.records import Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError
from resnet_jax.runtime.plain_files import open_file


@dataclass(frozen=True, eq=False)
class FolderRecords:
    """Encoded image files, decoded on access.

    Attributes:
        paths: N files; a `PathTable` stores a million of them compactly.
        labels: int32 (N,).
        channels: 3 (RGB) or 1 (gray); 0 for the stored channels.
        encoded_bytes: the size of all files.
        pixels: ``uint8``, or ``stored`` for the contents of the files.
        orientation: ``stored``, or ``exif`` to rotate images upright.
        groups: the group of each, such as a patient, if known: any values (N,).
        fields: further classes and numbers of every example, (N,) each.
        field_names: names of the classes of further fields.
    """

    paths: Sequence[str]
    labels: np.ndarray
    channels: int = 3
    encoded_bytes: int = 0
    pixels: Pixels = "uint8"
    orientation: Orientation = "stored"
    groups: np.ndarray | None = None
    fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    field_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Example:
        further = {name: values[index] for name, values in self.fields.items()}
        return {"image": self.image(index), **further, "label": self.labels[index]}

    @property
    def spec(self) -> Spec:
        further = {name: Field(values.shape[1:], values.dtype.name) for name, values in self.fields.items()}
        if self.pixels == "uint8" and not self.paths[0].endswith(".npy"):
            return {**encoded_spec(self.channels, self.labels), **further}
        found = spec_of(self[0])
        side = () if len(found["image"].shape) != 3 else (None, None)
        image = dataclasses.replace(found["image"], shape=(*side, *found["image"].shape[len(side) :]))
        return {"image": image, "label": Field(self.labels.shape[1:], self.labels.dtype.name, "label"), **further}

    def image(self, index: int) -> np.ndarray:
        """Return image ``index``, decoded."""
        path = self.paths[index]
        return decode_file(read_bytes(path), self.channels, path, self.pixels, self.orientation)

    def encoded(self, index: int) -> bytes:
        """Return the bytes of image file ``index``."""
        return read_bytes(self.paths[index])

    def describe(self, index: int) -> str:
        return self.paths[index]


@register_source("folder", form="folder:PATH", uses=("orientation", "class_pattern", "class_list"))
def _load(location: str, reading: Reading, /) -> Dataset:
    return load_folder(location, reading)


def load_folder(path: str, reading: Reading | None = None, **wanted: Any) -> Dataset:
    """List the images below ``path`` (nothing is decoded yet).

    Args:
        path: the folder.
        reading: how it is read.
        wanted: fields of it by name, such as ``channels=1``.

    Raises:
        DataError: if it does not exist, has another layout or an empty class, or classes differ between splits.
        UsageError: if ``class_pattern`` is not a pattern.
    """
    reading = dataclasses.replace(reading or Reading(), **wanted)
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(_no_folder(root))
    if reading.class_pattern is not None:
        compiled(reading.class_pattern)

    def build(stamps: Stamps) -> Index:
        lister = Lister(root, stamps, lists_empty=reading.skip_unreadable)
        find = index_class_folders if reading.class_pattern is None else index_by_pattern
        found = find(lister, reading)
        return dataclasses.replace(found, notes=(*found.notes, *_said_of_links(lister)))

    class_list = None if reading.class_list is None else os.path.abspath(os.path.expanduser(reading.class_list))
    facts = ["folder", os.path.abspath(root), str(root), reading.least_classes, reading.class_pattern, class_list]
    facts += ["with empty files"] if reading.skip_unreadable else []
    return dataset_of(kept_index(facts, build), f"folder:{path}", reading)


def dataset_of(index: Index, name: str, reading: Reading) -> Dataset:
    """Return the data set of an index.

    Args:
        index: index of the files.
        name: name of the data set.
        reading: how the files are read.
    """
    splits = {
        split: FolderRecords(
            part.paths,
            part.labels,
            reading.channels or (3 if reading.pixels == "uint8" else 0),
            part.bytes,
            reading.pixels,
            reading.orientation,
            part.groups,
            part.fields,
            index.field_names,
        )
        for split, part in index.parts.items()
    }
    return Dataset(name, splits, index.class_names, index.notes, index.origins, reading.least_classes, index.kind)


def _said_of_links(lister: Lister) -> list[str]:
    if not lister.outside:
        return []
    shown = (f"{os.path.relpath(link, lister.root)} -> {target}" for link, target in sorted(lister.outside.items()))
    return [f"{len(lister.outside):,} links lead out of {lister.root} and are followed: {shortened(shown, 3)}"]


def _no_folder(root: Path) -> str:
    if not root.exists():
        return f"{root}: there is no such folder; {LAYOUTS}"
    with open_file(root) as file:
        found = identify(file.read(HEAD_BYTES))
    if root.suffix == ".npz":
        return f"{root}: this is a file of arrays and no folder; write npz:{root}"
    if found is None:
        return f"{root}: this is a file and no folder; {LAYOUTS}"
    advice = f": {found.advice}" if found.advice else ""
    return f"{root}: this is {found.name} and no folder{advice}; {LAYOUTS}"
