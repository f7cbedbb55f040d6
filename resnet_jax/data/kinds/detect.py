"""Which source is at a path, from the names in a folder, without opening its files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from resnet_jax.data.kinds.class_files import FileType
from resnet_jax.data.layout import is_annotation, split_of
from resnet_jax.errors import DataError
from resnet_jax.runtime.plain_files import open_file

MOST_LOOKED_AT = 2000
"""Number of file names that are examined to determine what a folder contains."""


def source_at(path: Path) -> tuple[str, str] | None:
    """Return a folder or file written as a source, and what it is; None if it is none of these kinds.

    Args:
        path: an existing folder or file.
    """
    try:
        return _of_folder(path) if path.is_dir() else _of_file(path)
    except (OSError, DataError):
        return None


def _of_file(path: Path) -> tuple[str, str] | None:
    if path.suffix.lower() == ".ts" and _begins(path, rb"\s*[#@%]"):
        return f"ucr:{path}", "series in the format of the UCR archive"
    if path.suffix.lower() == ".json" and _has_coco_keys(path):
        return f"coco:{path}", "annotations in COCO's format"
    if re.fullmatch(r"cifar-100?-(python|binary)\.tar(\.gz)?", path.name):
        return f"cifar:{path}", "an archive of CIFAR"
    return None


def _of_folder(path: Path) -> tuple[str, str] | None:
    from resnet_jax.data.cifar import is_cifar
    from resnet_jax.data.kinds.ucr import find_files
    from resnet_jax.data.mnist import is_mnist

    names = {entry.name for entry in os.scandir(path)}
    if is_cifar(names):
        return f"cifar:{path}", "CIFAR as it is published"
    if is_mnist(names):
        return f"mnist:{path}", "IDX files, as MNIST is published"
    if {"x.npy", "y.npy"} <= names or {"x_train.npy", "y_train.npy"} <= names:
        return f"npy:{path}", "arrays"
    if any(re.fullmatch(r".*_TRAIN\.tsv?", name, re.IGNORECASE) for name in names):
        find_files(path)
        return f"ucr:{path}", "series in the format of the UCR archive"
    if "annotations" in names and any((path / "annotations").glob("instances_*.json")):
        return f"coco:{path}", "boxes as COCO writes them"
    splits = [name for name in names if split_of(name) is not None]
    if any((path / name / "_annotations.coco.json").is_file() for name in splits):
        return f"coco:{path}", "boxes as COCO writes them"
    tables = [name for name in names if name.lower().endswith(".json")]
    if len(tables) == 1 and _has_coco_keys(path / tables[0]):
        return f"coco:{path}", "boxes as COCO writes them"
    if _is_voc(path, names) or any(_has_xml_and_image(path / name) for name in [*splits, "."]):
        return f"voc:{path}", "boxes as Pascal VOC writes them"
    if "SegmentationClass" in names and "JPEGImages" in names:
        return f"voc_segmentation:{path}", "masks as Pascal VOC has them"
    if _is_masks(path):
        return f"masks:{path}", "images with masks"
    return _of_class_files(path)


def _is_voc(path: Path, names: set[str]) -> bool:
    here = path / "VOCdevkit" if "VOCdevkit" in names else path
    years = [here, *(entry for entry in here.iterdir() if re.fullmatch(r"VOC\d{4}", entry.name))]
    return any((year / "Annotations").is_dir() and _holds(year / "Annotations", ".xml") for year in years)


def _has_xml_and_image(folder: Path) -> bool:
    return _holds(folder, ".xml") and any(_holds(folder, suffix) for suffix in (".jpg", ".jpeg", ".png"))


def _is_masks(path: Path) -> bool:
    from resnet_jax.data.kinds.mask_pairs import find_pairs

    shown = [entry for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith(".")]
    inside = [below for entry in shown for below in os.scandir(entry.path) if below.is_dir()]
    endings = [name[len(split) :] for name in (e.name for e in shown) for split in _split_starts(name)]
    if not any(is_annotation(entry.name) for entry in [*shown, *inside]) and not any(map(is_annotation, endings)):
        return False
    find_pairs(path)
    return True


def _split_starts(name: str) -> list[str]:
    return [name[:end] for end in range(2, len(name)) if split_of(name[:end]) is not None]


def _of_class_files(path: Path) -> tuple[str, str] | None:
    from resnet_jax.data.kinds.volumes import VOLUMES
    from resnet_jax.data.kinds.wav import SOUNDS

    looked = 0
    for above, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            looked += 1
            for kind, source, what in ((SOUNDS, "wav", "sounds"), (VOLUMES, "volumes", "volumes")):
                if _is(kind, source, name):
                    flat = " whose class is in their names (data.class_pattern)" if Path(above) == path else ""
                    return f"{source}:{path}", f"{what}{flat}"
            if looked > MOST_LOOKED_AT:
                return None
    return None


def _is(kind: FileType, source: str, name: str) -> bool:
    """Return whether a file identifies its kind: an .npy may be an image of class folders, an .npz anything."""
    if source == "volumes":
        return name.lower().endswith((".nii", ".nii.gz"))
    return kind.includes(name)


def _holds(folder: Path, suffix: str) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(
            entry.name.lower().endswith(suffix) for _, entry in zip(range(MOST_LOOKED_AT), entries, strict=False)
        )


def _begins(path: Path, pattern: bytes) -> bool:
    with open_file(path) as file:
        return re.match(pattern, file.read(64)) is not None


def _has_coco_keys(path: Path) -> bool:
    with open_file(path) as file:
        head = file.read(1 << 20)
    return head.lstrip().startswith(b"{") and b'"images"' in head and (b'"annotations"' in head or len(head) == 1 << 20)
