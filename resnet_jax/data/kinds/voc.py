"""``voc:PATH``: images with boxes in Pascal VOC format, one XML file per image.

There are three layouts: VOC's own (``PATH/Annotations/*.xml``, ``PATH/JPEGImages``, lists
``PATH/ImageSets/Main/train.txt``, ``val.txt``, ``test.txt``; ``trainval.txt`` if there is no train; a single list, such
as a test, is used alone; without lists all images are one split), a ``VOCdevkit`` with one year in it, and
``PATH/train``, ``PATH/valid``, ``PATH/test`` that each contain images and XML files beside each other or in
``JPEGImages`` and ``Annotations``. An image has the name of its XML file.

**Corners.** VOC counts pixels from 1, with the last one inclusive: xmin, ymin, xmax, ymax become top = ymin - 1, left =
xmin - 1, bottom = ymax, right = xmax (:mod:`resnet_jax.data.boxes`). A box that extends outside is clipped; one without
area is dropped. Both are counted in the notes.

**Classes** are the names of all objects, sorted (VOC's own order), or ``data.class_list``. ``difficult`` objects are
kept, with a field that marks them. Files with a document type or larger than 16 MB are rejected.

M. Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from resnet_jax.data.kinds.box_records import Cleaning, ImageBoxes, box_records, notes_of
from resnet_jax.data.kinds.class_files import read_class_list
from resnet_jax.data.kinds.files import (
    folder_names,
    image_sides,
    images_by_stem,
    raise_together,
    read_text,
    wanted_channels,
)
from resnet_jax.data.kinds.plain_xml import parse_xml
from resnet_jax.data.layout import shortened, split_of
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError, nearest

EXPECTED = (
    "need PATH/Annotations/*.xml with PATH/JPEGImages (and lists in PATH/ImageSets/Main), or PATH/train, PATH/valid "
    "with images and XML files in them"
)
SHIFT = 1
"""VOC counts pixels from 1."""


@dataclass(frozen=True)
class VocObject:
    """One object of an image: its class, xmin, ymin, xmax, ymax as written, and whether it is difficult."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocFile:
    """One XML file: its path, the image, that image's height and width, and the objects."""

    annotation: str
    image: str
    sides: tuple[int, int]
    objects: tuple[VocObject, ...]


@register_source("voc", form="voc:PATH", uses=("class_list",))
def load_voc(path: str, reading: Reading, /) -> Dataset:
    """List the images and read all annotations.

    Raises:
        DataError: for another layout, a list with missing files, or a broken annotation.
    """
    root = devkit_year(Path(path).expanduser())
    pairs = find_pairs(root)
    files = _read_all(pairs)
    names = {item.name for found in files.values() for file in found for item in file.objects}
    classes = tuple(sorted(names)) if reading.class_list is None else read_class_list(reading.class_list)
    if not names:
        raise DataError(f"{root}: there is no object in any of {sum(map(len, files.values())):,} annotations")
    place = {name: label for label, name in enumerate(classes)}
    images = {split: [_image_boxes(file, place, classes) for file in found] for split, found in files.items()}
    cleaning = Cleaning()
    channels = wanted_channels(reading.channels, reading.pixels)
    records = box_records(images, "difficult", channels, reading.pixels, cleaning)
    notes = (*_zero_based(files), *notes_of(records, "difficult", cleaning))
    return Dataset(f"voc:{path}", records, classes, notes, {}, reading.least_classes, "boxes")


def devkit_year(root: Path) -> Path:
    """Return the folder of the year in a VOCdevkit, or the folder itself.

    Raises:
        DataError: if there is no such folder, or there are several years.
    """
    if not root.is_dir():
        what = "this is a file and no folder" if root.exists() else "there is no such folder"
        raise DataError(f"{root}: {what}; {EXPECTED}")
    if (root / "VOCdevkit").is_dir():
        root = root / "VOCdevkit"
    years = [name for name in folder_names(root) if (root / name / "Annotations").is_dir() and split_of(name) is None]
    if (root / "Annotations").is_dir() or not years:
        return root
    if len(years) > 1:
        raise DataError(f"{root}: holds {shortened(years)}; name one of them, such as {root / years[0]}")
    return root / years[0]


def find_pairs(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Return split -> annotation and image of every example.

    Raises:
        DataError: for another layout, or a missing image or annotation that a list names.
    """
    if (root / "Annotations").is_dir():
        return _with_lists(root)
    found = {name: split for name in folder_names(root) if (split := split_of(name)) is not None}
    pairs = {found[name]: _all_pairs(root / name) for name in found}
    if len(pairs) < len(found):
        raise DataError(f"{root}: {shortened(sorted(found))} are not one folder a split; keep one of each")
    if not pairs:
        return {"all": _all_pairs(root)}
    if "train" not in pairs:
        raise DataError(f"{root}: {shortened(sorted(found))} without train; {EXPECTED}")
    order = {split: pairs[split] for split in ("train", "val", "test") if split in pairs}
    return order if len(order) > 1 else {"all": order["train"]}


def _all_pairs(folder: Path) -> list[tuple[str, str]]:
    """Return annotation and image of every XML file in a folder, or in its Annotations."""
    inside = (folder / "Annotations").is_dir()
    xml_folder = folder / "Annotations" if inside else folder
    annotations = sorted(path for path in xml_folder.iterdir() if path.suffix.lower() == ".xml")
    if not annotations:
        raise DataError(f"{xml_folder}: there are no XML files in it; {EXPECTED}")
    images = images_by_stem(folder / "JPEGImages" if inside else folder)
    return [(str(path), _image_of(path.stem, images, folder, path)) for path in annotations]


def _image_of(stem: str, images: dict[str, str], folder: Path, wanted_by: Path) -> str:
    if stem not in images:
        raise DataError(f"{wanted_by}: there is no image {stem} in {folder}")
    return images[stem]


def _with_lists(root: Path) -> dict[str, list[tuple[str, str]]]:
    lists = {split: root / "ImageSets" / "Main" / f"{split}.txt" for split in ("train", "val", "test")}
    lists = {split: path for split, path in lists.items() if path.is_file()}
    whole = root / "ImageSets" / "Main" / "trainval.txt"
    if "train" not in lists and whole.is_file():
        lists = {"train": whole, **{split: path for split, path in lists.items() if split == "test"}}
    if "train" not in lists and len(lists) != 1:
        return {"all": _all_pairs(root)}
    images = images_by_stem(root / "JPEGImages")
    pairs = {split: listed_stems(path) for split, path in lists.items()}
    found: dict[str, list[tuple[str, str]]] = {}
    for split, stems in pairs.items():
        found[split] = []
        for stem in stems:
            annotation = root / "Annotations" / f"{stem}.xml"
            if not os.path.isfile(annotation):
                raise DataError(f"{lists[split]}: {stem} has no annotation {annotation}")
            found[split].append((str(annotation), _image_of(stem, images, root / "JPEGImages", lists[split])))
    return found if len(found) > 1 else {"all": next(iter(found.values()))}


def listed_stems(path: Path) -> list[str]:
    """Return the names in a VOC list, one per line (the rest of a line is ignored).

    Raises:
        DataError: if there are none, or one occurs twice.
    """
    stems = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    if not stems or len(set(stems)) < len(stems):
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        raise DataError(f"{path}: {f'{shortened(twice, 3)} stand in it twice' if stems else 'there is nothing in it'}")
    return stems


def _read_all(pairs: dict[str, list[tuple[str, str]]]) -> dict[str, list[VocFile]]:
    files: dict[str, list[VocFile]] = {split: [] for split in pairs}
    errors: list[DataError] = []
    for split, found in pairs.items():
        for annotation, image in found:
            try:
                files[split].append(read_voc(annotation, image))
            except DataError as error:
                errors.append(error)
    raise_together(errors, sum(map(len, pairs.values())))
    return files


def read_voc(annotation: str, image: str) -> VocFile:
    """Read one XML file; image sizes that are missing or 0 in it are taken from the image's header.

    Raises:
        DataError: if it is not a VOC annotation, or has an object without a name or with non-numeric corners.
    """
    root = parse_xml(annotation)
    if root.tag != "annotation":
        raise DataError(f"{annotation}: it begins with <{root.tag}>, and VOC's with <annotation>")
    sides = tuple(_number(root.findtext(f"size/{name}") or "0", annotation, name) for name in ("height", "width"))
    height, width = (int(side) for side in sides) if min(sides) >= 1 else image_sides(image)
    objects = tuple(_object(item, annotation, number) for number, item in enumerate(root.findall("object"), 1))
    return VocFile(annotation, image, (height, width), objects)


def _object(item: Element, annotation: str, number: int) -> VocObject:
    where = f"{annotation}, object {number}"
    name = (item.findtext("name") or "").strip()
    box = item.find("bndbox")
    if not name or box is None:
        raise DataError(f"{where}: it has no {'bndbox' if name else 'name'}")
    texts = [box.findtext(corner) for corner in ("xmin", "ymin", "xmax", "ymax")]
    if None in texts:
        raise DataError(f"{where} ({name}): its bndbox needs xmin, ymin, xmax and ymax")
    xmin, ymin, xmax, ymax = (_number(text or "", where, name) for text in texts)
    return VocObject(name, (xmin, ymin, xmax, ymax), (item.findtext("difficult") or "0").strip() == "1")


def _number(text: str, where: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{where} ({name}): {text!r} is no number") from None


def _image_boxes(file: VocFile, place: dict[str, int], classes: Sequence[str]) -> ImageBoxes:
    boxes, labels = [], []
    for number, item in enumerate(file.objects, 1):
        if item.name not in place:
            near = nearest(item.name, classes)
            hint = f"; did you mean {near!r}?" if near else ""
            raise DataError(f"{file.annotation}, object {number}: class {item.name!r} is not in the list{hint}")
        xmin, ymin, xmax, ymax = item.corners
        boxes.append((ymin - SHIFT, xmin - SHIFT, ymax, xmax))
        labels.append(place[item.name])
    flags = [item.difficult for item in file.objects]
    return ImageBoxes(file.image, file.sides, boxes, labels, flags, os.path.basename(file.annotation))


def _zero_based(files: dict[str, list[VocFile]]) -> tuple[str, ...]:
    """Return a note that boxes begin at 0, although VOC counts pixels from 1."""
    corners = [item.corners for found in files.values() for file in found for item in file.objects]
    zeros = sum(min(xmin, ymin) == 0 for xmin, ymin, _, _ in corners)
    if not zeros:
        return ()
    return (
        f"{zeros:,} of {len(corners):,} boxes begin at 0, where VOC's begin at 1: if this set counts from 0, its boxes "
        "come one pixel too far up and left",
    )
