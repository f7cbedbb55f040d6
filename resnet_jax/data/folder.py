"""``folder:PATH``: one folder a class, images inside it.

Two layouts: ``PATH/CLASS/*.jpg`` (one split, ``all``), or ``PATH/train/CLASS/*.jpg`` with ``PATH/test`` or
``PATH/val`` (also ``valid``, ``validation``) or both beside it. Classes are the folder names in sorted order,
images are in sorted order, so that labels and indices do not depend on the file system. A name that begins
with a dot is ignored, and so is a file that is not .jpg, .jpeg, .png, .bmp or .webp.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_jax.data.decode import decode_image
from resnet_jax.data.records import Dataset
from resnet_jax.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LAYOUTS = "need PATH/CLASS/*.jpg, or PATH/train/CLASS/*.jpg with PATH/test or PATH/val beside it"


@dataclass(frozen=True, eq=False)
class FolderRecords:
    """Encoded image files, decoded when asked.

    Attributes:
        paths: N files.
        labels: int32 (N,).
        channels: 3 (RGB) or 1 (grey).
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    channels: int = 3

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> np.ndarray:
        path = self.paths[index]
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise DataError(f"{path}: cannot read it ({error.strerror})") from error
        return decode_image(data, self.channels, path)

    def describe(self, index: int) -> str:
        return self.paths[index]


def load_folder(path: str, channels: int | None = None) -> Dataset:
    """List the images below ``path`` (nothing is decoded yet).

    Raises:
        DataError: not there, another layout, an empty class, or classes that differ between splits.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; {LAYOUTS}")
    folders = _split_folders(root)
    classes = {split: _folder_names(folder) for split, folder in folders.items()}
    reference = next(iter(folders))
    for split, names in classes.items():
        if not names:
            raise DataError(f"{folders[split]}: no class folders in it; {LAYOUTS}")
        _check_same_classes(folders[reference], classes[reference], folders[split], names)
    splits = {split: _list_images(folders[split], names, channels or 3) for split, names in classes.items()}
    return Dataset(f"folder:{path}", splits, tuple(classes[reference]))


def _split_folders(root: Path) -> dict[str, Path]:
    names = _folder_names(root)
    if "train" not in names or not _folder_names(root / "train"):  # "train" may also be a class: a vehicle
        if names and set(names) <= set(SPLIT_FOLDERS):
            raise DataError(f"{root}: holds {', '.join(names)} but no train with class folders; {LAYOUTS}")
        return {"all": root}
    folders: dict[str, Path] = {}
    for name in sorted(set(names) & set(SPLIT_FOLDERS), key=list(SPLIT_FOLDERS).index):
        split = SPLIT_FOLDERS[name]
        if split in folders:
            raise DataError(f"{root}: both {folders[split].name} and {name} are there; keep one of them")
        folders[split] = root / name
    if len(folders) == 1:
        raise DataError(
            f"{root}: train has neither test nor val beside it (found {', '.join(names)}); "
            f"name {root / 'train'} itself to have the splits taken from it"
        )
    return folders


def _check_same_classes(reference: Path, expected: list[str], folder: Path, found: list[str]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        name, present, absent = (missing[0], reference, folder) if missing else (extra[0], folder, reference)
        raise DataError(
            f"class {name!r} is in {present} but not in {absent} ({len(missing)} classes missing and "
            f"{len(extra)} unknown in {folder}); all splits need the same class folders"
        )


def _list_images(folder: Path, classes: list[str], channels: int) -> FolderRecords:
    paths: list[str] = []
    counts: list[int] = []
    for name in classes:
        with os.scandir(folder / name) as entries:
            found = sorted(e.path for e in entries if _is_image(e.name))
        if not found:
            raise DataError(f"{folder / name}: no images in it; a class folder holds {', '.join(SUFFIXES)} files")
        paths += found
        counts.append(len(found))
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return FolderRecords(tuple(paths), labels, channels)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _folder_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
