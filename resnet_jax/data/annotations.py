"""Labels of held-out images without class folders, as published data sets provide them.

==================  =================================================================================================
data set            source of the class of a validation image
==================  =================================================================================================
Tiny ImageNet       ``val/val_annotations.txt``: file, class and box, separated by tabs
ImageNet            the devkit: ``ILSVRC2012_validation_ground_truth.txt``, one number per line, and ``meta.mat`` for
                    the numbers
ImageNet on Kaggle  ``LOC_val_solution.csv``: file and, after a comma, the class and the box of every object
==================  =================================================================================================

The classes are the folders of the training images (``n01440764``).
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.data.index import Stamps, read_table
from resnet_jax.data.layout import shortened
from resnet_jax.errors import DataError

TINY = "val_annotations.txt"
KAGGLE = "LOC_val_solution.csv"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
DEVKIT = "ILSVRC2012_devkit_t12"
CLS_LOC = Path("ILSVRC", "Data", "CLS-LOC")
"""Location of the images in Kaggle's distribution."""
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The class of every image of a split.

    Attributes:
        file: the file that contains the classes.
        classes: file name without folder and suffix -> class.
    """

    file: Path
    classes: Mapping[str, str]

    def labels(self, paths: list[str], classes: Mapping[str, int]) -> tuple[list[int], tuple[str, ...]]:
        """Return the labels of images, and notes about them.

        Args:
            paths: paths of all images of the split.
            classes: class -> label.

        Raises:
            DataError: if images are missing from the file, or classes do not exist.
        """
        stems = [Path(path).stem for path in paths]
        without = [path for path, stem in zip(paths, stems, strict=True) if stem not in self.classes]
        if without:
            raise DataError(f"{self.file} names no class of {shortened(without, 3)} ({len(without):,} images)")
        unknown = sorted({self.classes[stem] for stem in stems} - set(classes))
        if unknown:
            raise DataError(f"{self.file}: {shortened(unknown)} are no classes of the training images")
        missing = sorted(set(self.classes) - set(stems))
        notes = [f"labels of {len(paths):,} images are those of {self.file.name}"]
        if missing:
            said = f"{len(missing):,} of the {len(self.classes):,} images that {self.file.name} names are not there"
            notes.append(f"{said}: {shortened(missing, 3)}")
        return [classes[self.classes[stem]] for stem in stems], tuple(notes)


def find_annotations(root: Path, folder: Path, stamps: Stamps) -> Annotations | None:
    """Return the annotations of a folder of images without class folders; None if there are none.

    Args:
        root: the folder of the data set.
        folder: folder of the split, below it.
        stamps: records the files that were read.

    Raises:
        DataError: if a file is malformed.
    """
    if (folder / TINY).is_file():
        return _tiny(folder / TINY, stamps)
    if not _is_imagenet(folder):
        return None
    for place in (root, *list(root.absolute().parents)[: len(CLS_LOC.parts)]):
        if (place / KAGGLE).is_file():
            return _kaggle(place / KAGGLE, stamps)
    for place in (root / DEVKIT / "data", root / "data", root, root.absolute().parent / DEVKIT / "data"):
        if (place / TRUTH).is_file():
            return _devkit(place / TRUTH, place / META, stamps)
    raise DataError(
        f"{folder}: ImageNet's validation images lie in no class folders, and nothing says of which class they are; "
        f"unpack {DEVKIT}.tar.gz in {root} (or put {KAGGLE} of Kaggle there)"
    )


def _is_imagenet(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(_VALIDATION.fullmatch(entry.name) for entry in entries)


def _text(path: Path, stamps: Stamps) -> list[str]:
    try:
        return read_table(path, stamps).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: this is not text in UTF-8 (byte {error.start})") from error


def _tiny(path: Path, stamps: Stamps) -> Annotations:
    classes: dict[str, str] = {}
    for number, line in enumerate(_text(path, stamps), 1):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) < 2 or not cells[1].strip():
            raise DataError(f"{path}: line {number} is {line[:60]!r}; need a file and a class, with a tab between")
        _add(classes, Path(cells[0].strip()).stem, cells[1].strip(), f"{path}: line {number}")
    return Annotations(path, classes)


def _kaggle(path: Path, stamps: Stamps) -> Annotations:
    lines = _text(path, stamps)
    if not lines or lines[0].replace(" ", "") != "ImageId,PredictionString":
        raise DataError(f"{path}: the first line is {lines[:1]}; need ImageId,PredictionString")
    classes: dict[str, str] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        name, _, objects = line.partition(",")
        words = objects.split()
        if not words or len(words) % 5:
            raise DataError(f"{path}: line {number} is {line[:60]!r}; need an image, then a class and a box an object")
        if len(set(words[::5])) > 1:
            raise DataError(f"{path}: line {number} names objects of the classes {shortened(sorted(set(words[::5])))}")
        _add(classes, name.strip(), words[0], f"{path}: line {number}")
    return Annotations(path, classes)


def _devkit(truth: Path, meta: Path, stamps: Stamps) -> Annotations:
    synsets = _synsets(meta, stamps)
    classes: dict[str, str] = {}
    for number, line in enumerate(_text(truth, stamps), 1):
        if not line.strip().isdecimal() or int(line) not in synsets:
            raise DataError(
                f"{truth}: line {number} is {line[:40]!r}; need a number of {META}, 1 to {max(synsets, default=0)}"
            )
        classes[f"ILSVRC2012_val_{number:08}"] = synsets[int(line)]
    return Annotations(truth, classes)


def _synsets(meta: Path, stamps: Stamps) -> dict[int, str]:
    """Return number -> class from the devkit's table of synsets."""
    from scipy.io import loadmat

    if not meta.is_file():
        raise DataError(f"{meta}: there is no such file; it says which class each number of {TRUTH} is")
    content = read_table(meta, stamps)
    try:
        rows: Any = loadmat(io.BytesIO(content), squeeze_me=True, variable_names=["synsets"])["synsets"]
        found = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if int(row["num_children"]) == 0}
    except Exception as error:  # scipy raises anything for a broken file
        raise DataError(f"{meta}: cannot read its table of synsets ({error or type(error).__name__})") from error
    if not found:
        raise DataError(f"{meta}: there are no synsets in it")
    return found


def _add(classes: dict[str, str], name: str, label: str, where: str) -> None:
    if classes.setdefault(name, label) != label:
        raise DataError(f"{where}: {name} is of the classes {classes[name]} and {label}; need one class an image")
