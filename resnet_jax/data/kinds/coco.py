"""``coco:PATH``: images with boxes in COCO format, one JSON file per split.

Layouts: COCO's own (``PATH/annotations/instances_train2017.json`` with ``PATH/train2017`` or ``PATH/images/train2017``,
and so on for val and test), ``PATH/train/_annotations.coco.json`` beside its images (also ``valid``, ``test``), or one
JSON file as split ``all``: ``coco:FILE.json`` with its images beside it, in ``images`` beside it or where its file
names point, or ``coco:FILE.json@IMAGE_FOLDER``.

**Corners.** x, y, width, height in pixels counted from 0 become top = y, left = x, bottom = y + height, right = x +
width (:mod:`resnet_jax.data.boxes`). A box that extends outside is clipped; one without area is dropped; both are
counted in the notes. **Classes** are the categories in the order of their ids, which need not be consecutive;
categories without boxes are kept, and so are images without boxes. ``iscrowd`` is the field ``crowd``. Masks and
keypoints are not read. A JSON file may have up to 2 GiB; COCO's largest has 0.45.

T.-Y. Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; the format: cocodataset.org.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.data.kinds.box_records import Cleaning, ImageBoxes, box_records, notes_of
from resnet_jax.data.kinds.files import folder_names, read_bytes, wanted_channels
from resnet_jax.data.layout import shortened, split_of
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError
from resnet_jax.runtime.plain_json import load_json

MAX_BYTES = 2 << 30
BESIDE = "_annotations.coco.json"
EXPECTED = (
    "need PATH/annotations/instances_train2017.json with PATH/train2017, PATH/train/_annotations.coco.json beside its "
    "images, or coco:FILE.json@IMAGE_FOLDER"
)
_INSTANCES = re.compile(r"(?:instances_)?([a-z]+)(\d*)\.json")


@register_source("coco", form="coco:PATH or coco:FILE.json@IMAGE_FOLDER")
def load_coco(location: str, reading: Reading, /) -> Dataset:
    """Read the annotations and list the images.

    Raises:
        DataError: for another layout, broken JSON, an annotation of an image or category that does not exist, or a
            missing image.
    """
    files = find_files(location)
    tables = {split: _read(file) for split, (file, _) in files.items()}
    classes = _categories({str(files[split][0]): table for split, table in tables.items()})
    images = {split: _images(tables[split], *files[split], classes) for split in files}
    cleaning = Cleaning()
    records = box_records(images, "crowd", wanted_channels(reading.channels, reading.pixels), reading.pixels, cleaning)
    records = {split: dataclasses.replace(one, **_numbers(tables[split], classes)) for split, one in records.items()}
    origins = {} if "all" in files else {split: file.name for split, (file, _) in files.items()}
    names = tuple(classes[number] for number in sorted(classes))
    notes = notes_of(records, "crowds", cleaning)
    return Dataset(f"coco:{location}", records, names, notes, origins, reading.least_classes, "boxes")


def _numbers(table: Mapping[str, list[dict[str, Any]]], classes: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    """Return the ids of the images, if they are numbers, and of the categories."""
    ids = tuple(item["id"] for item in table["images"])
    return {"ids": ids if all(isinstance(one, int) for one in ids) else (), "category_ids": tuple(sorted(classes))}


def find_files(location: str) -> dict[str, tuple[Path, Path]]:
    """Return split -> its JSON file and the folder of its images.

    Raises:
        DataError: for another layout.
    """
    place = Path(location).expanduser()
    if ".json@" in location and not place.exists():
        name, _, folder = location.partition(".json@")
        return {"all": (_file(Path(f"{name}.json").expanduser()), _folder(Path(folder).expanduser()))}
    if place.is_file():
        images = place.parent / "images"
        return {"all": (place, images if images.is_dir() else place.parent)}
    if not place.is_dir():
        raise DataError(f"{place}: there is no such file or folder; {EXPECTED}")
    found = _of_annotations(place) if (place / "annotations").is_dir() else _beside_images(place)
    if "train" not in found:
        if len(found) != 1:
            raise DataError(f"{place}: found {', '.join(sorted(found)) or 'no annotations'}; {EXPECTED}")
        return {"all": next(iter(found.values()))}
    order = {split: found[split] for split in ("train", "val", "test") if split in found}
    return order if len(order) > 1 else {"all": order["train"]}


def _of_annotations(place: Path) -> dict[str, tuple[Path, Path]]:
    found: dict[str, tuple[Path, Path]] = {}
    for file in sorted((place / "annotations").glob("*.json")):
        match = _INSTANCES.fullmatch(file.name)
        split = split_of(match[1]) if match else None
        if match is None or split is None:
            continue  # captions, keypoints, panoptic: other tasks' files
        if split in found:
            raise DataError(f"{file} and {found[split][0]}: two files of {split}; keep one, or name one of them")
        name = f"{match[1]}{match[2]}"
        folders = [place / name, place / "images" / name, place / match[1], place / "images" / match[1]]
        folder = next((one for one in [*folders, place / "images"] if one.is_dir()), None)
        if folder is None:
            raise DataError(f"{file}: there is no folder {folders[0]} or {folders[1]} with its images")
        found[split] = (file, folder)
    return found


def _beside_images(place: Path) -> dict[str, tuple[Path, Path]]:
    found: dict[str, tuple[Path, Path]] = {}
    for name in folder_names(place):
        split = split_of(name)
        if split is not None and (place / name / BESIDE).is_file():
            found[split] = (place / name / BESIDE, place / name)
    if not found:
        files = sorted(place.glob("*.json"))
        if len(files) == 1:
            found["all"] = (files[0], place / "images" if (place / "images").is_dir() else place)
    return found


def _file(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; {EXPECTED}")
    return path


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder of images; {EXPECTED}")
    return path


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        table = load_json(read_bytes(file, MAX_BYTES))
    except ValueError as error:
        raise DataError(f"{file}: this is no whole JSON file ({error})") from error
    if not isinstance(table, dict):
        raise DataError(f"{file}: a JSON {type(table).__name__}; COCO's is an object with images and annotations")
    for name in ("images", "annotations", "categories"):
        if not isinstance(table.get(name), list) or not all(isinstance(item, dict) for item in table[name]):
            raise DataError(f"{file}: no list of objects {name!r}; found {shortened(table)}")
    if not table["images"]:
        raise DataError(f"{file}: its list of images is empty")
    return table


def _get(item: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str) -> Any:
    value = item.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where}: {key} is {value!r}")
    return value


def _categories(tables: Mapping[str, Mapping[str, Any]]) -> dict[int, str]:
    """Return id -> name, the same in every split."""
    found: dict[int, str] = {}
    first = next(iter(tables))
    for file, table in tables.items():
        here: dict[int, str] = {}
        for number, item in enumerate(table["categories"]):
            where = f"{file}, category {number}"
            key = _get(item, "id", int, where)
            if key in here:
                raise DataError(f"{where}: id {key} is that of {here[key]!r} already")
            here[key] = _get(item, "name", str, where)
        if not here:
            raise DataError(f"{file}: its list of categories is empty")
        twice = [name for name, count in Counter(here.values()).items() if count > 1]
        if twice:
            raise DataError(f"{file}: several categories are called {shortened(twice)}; give each a name of its own")
        if found and here != found:
            other = sorted(set(found.items()) ^ set(here.items()))[0]
            raise DataError(f"{file}: its categories are not those of {first}, such as {other[1]!r} (id {other[0]})")
        found = here
    return found


def _images(table: Mapping[str, Any], file: Path, folder: Path, classes: Mapping[int, str]) -> list[ImageBoxes]:
    place = {key: label for label, key in enumerate(sorted(classes))}
    boxes: dict[int, list[tuple[tuple[float, float, float, float], int, bool]]] = defaultdict(list)
    for number, item in enumerate(table["annotations"]):
        where = f"{file}, annotation {item.get('id', number)}"
        category = _get(item, "category_id", int, where)
        if category not in place:
            raise DataError(f"{where}: category_id {category} is none of the {len(classes)} categories")
        boxes[_get(item, "image_id", (int, str), where)].append(
            (_corners(item.get("bbox"), where), place[category], item.get("iscrowd", 0) in (1, True))
        )
    there = _names_below(folder)
    images, known, missing = [], set(), []
    for number, item in enumerate(table["images"]):
        where = f"{file}, image {item.get('id', number)}"
        key = _get(item, "id", (int, str), where)
        if key in known:
            raise DataError(f"{where}: there is an image of this id already")
        known.add(key)
        name = os.path.normpath(_get(item, "file_name", str, where))
        if os.path.isabs(name) or name.startswith(".."):
            raise DataError(f"{where}: file_name {name!r} leads out of {folder}")
        if name not in there:
            missing.append(name)
        sides = _get(item, "height", int, where), _get(item, "width", int, where)
        if min(sides) < 1:
            raise DataError(f"{where}: {sides[0]} x {sides[1]} pixels")
        mine = boxes.get(key, [])
        images.append(
            ImageBoxes(
                os.path.join(folder, name),
                sides,
                [one[0] for one in mine],
                [one[1] for one in mine],
                [one[2] for one in mine],
                f"image {key} ({name})",
            )
        )
    if missing:
        raise DataError(f"{folder}: {len(missing):,} of {len(images):,} images are not there: {shortened(missing, 3)}")
    strange = sorted(set(boxes) - known, key=str)
    if strange:
        raise DataError(
            f"{file}: annotations of {len(strange):,} images that it does not list: {shortened(map(str, strange), 3)}"
        )
    return images


def _corners(box: Any, where: str) -> tuple[float, float, float, float]:
    numbers = isinstance(box, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in box)
    if not numbers or len(box) != 4:
        raise DataError(f"{where}: bbox is {box!r}; need four numbers: x, y, width, height")
    x, y, width, height = box
    return y, x, y + height, x + width


def _names_below(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, relative to it."""
    return {
        os.path.normpath(os.path.join(os.path.relpath(above, folder), name))
        for above, _, names in os.walk(folder)
        for name in names
    }
