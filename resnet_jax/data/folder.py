"""``folder:PATH``: one folder a class, images inside it.

Two layouts: ``PATH/CLASS/*.jpg`` (one split, ``all``), or ``PATH/train/CLASS/*.jpg`` with ``PATH/test`` or
``PATH/val`` (also ``training``, ``testing``, ``valid``, ``validation``, in capitals or not) or both beside it. Classes
are the folder names in sorted order, images are in sorted order, so that labels and indices do not depend on the file
system. Images in subfolders of a class folder belong to the class. A file is an image if its suffix or its first bytes
say so (see :mod:`resnet_jax.data.formats`); every other file is counted in the data set's notes. A name that begins
with a dot is ignored.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_jax.data.decode import NPY, decode_image, decode_npy, decode_stored
from resnet_jax.data.example import Example, Field, Spec, encoded_spec, spec_of
from resnet_jax.data.formats import HEAD_BYTES, READABLE, identify
from resnet_jax.data.layout import LAYOUTS, alike, check_class_names, folded, shortened, split_of
from resnet_jax.data.listing import LeftOut, Listing, files_in, folder_names, list_images
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import Dataset, Records
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError

MASK_ENDINGS = ("_mask", "-mask", "_seg", "_segmentation", "_label", "_gt", "_annotation")


@dataclass(frozen=True, eq=False)
class FolderRecords:
    """Encoded image files, decoded when asked.

    Attributes:
        paths: N files.
        labels: int32 (N,).
        channels: 3 (RGB) or 1 (grey); 0 for those that are stored.
        encoded_bytes: the size of all files.
        pixels: ``uint8``, or ``stored``: what the files hold.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    channels: int = 3
    encoded_bytes: int = 0
    pixels: str = "uint8"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Example:
        return {"image": self.image(index), "label": self.labels[index]}

    @property
    def spec(self) -> Spec:
        if self.pixels == "uint8" and not self.paths[0].endswith(".npy"):
            return encoded_spec(self.channels, self.labels)
        found = spec_of(self[0])
        side = () if len(found["image"].shape) != 3 else (None, None)
        image = dataclasses.replace(found["image"], shape=(*side, *found["image"].shape[len(side) :]))
        return {"image": image, "label": Field(self.labels.shape[1:], self.labels.dtype.name, "label")}

    def image(self, index: int) -> np.ndarray:
        """Return image ``index``, decoded."""
        path, data = self.paths[index], self.encoded(index)
        if data.startswith(NPY):
            return decode_npy(data, path)
        if self.pixels == "stored":
            return decode_stored(data, self.channels, path)
        return decode_image(data, self.channels, path)

    def encoded(self, index: int) -> bytes:
        """Return the bytes of image file ``index``."""
        path = self.paths[index]
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"{path}: cannot read it ({error.strerror})") from error

    def describe(self, index: int) -> str:
        return self.paths[index]


@register_source("folder", form="folder:PATH")
def _load(location: str, reading: Reading, /) -> Dataset:
    return load_folder(location, reading.channels, reading.least_classes, reading.pixels)


def load_folder(path: str, channels: int | None = None, least_classes: int = 2, pixels: str = "uint8") -> Dataset:
    """List the images below ``path`` (nothing is decoded yet).

    Raises:
        DataError: not there, another layout, an empty class, or classes that differ between splits.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(_no_folder(root))
    folders = _split_folders(root)
    classes = {split: folder_names(folder) for split, folder in folders.items()}
    for split, names in classes.items():
        if not names:
            raise DataError(
                f"{folders[split]}: no class folders in it, which holds {_holding(folders[split])}; {LAYOUTS}"
            )
        check_class_names(folders[split], names)
    reference = next(iter(folders))
    for split, names in classes.items():
        _check_same_classes(folders[reference], classes[reference], folders[split], names)
    only = classes[reference][0]
    if len(classes[reference]) < least_classes or (
        len(classes[reference]) == 1 and folder_names(folders[reference] / only)
    ):
        raise DataError(_one_class(folders[reference], only))
    splits: dict[str, Records] = {}
    notes: list[str] = []
    listings: list[tuple[str, Listing]] = []
    for split, names in classes.items():
        found = [(f"{folders[split]}/{name}", _list_class(folders[split], name, root)) for name in names]
        counts = [len(listing.paths) for _, listing in found]
        splits[split] = FolderRecords(
            tuple(image for _, listing in found for image in listing.paths),
            np.repeat(np.arange(len(names), dtype=np.int32), counts),
            channels or (3 if pixels == "uint8" else 0),
            sum(listing.bytes for _, listing in found),
            pixels,
        )
        listings += found
    notes += _notes_of_files(root, listings)
    notes += _notes_of_folders(root, folders, classes[reference])
    origins = {} if "all" in folders else {split: folder.name for split, folder in folders.items()}
    return Dataset(f"folder:{path}", splits, tuple(classes[reference]), tuple(notes), origins, least_classes)


def _no_folder(root: Path) -> str:
    if not root.exists():
        return f"{root}: there is no such folder; {LAYOUTS}"
    with root.open("rb") as file:
        found = identify(file.read(HEAD_BYTES))
    if root.suffix == ".npz":
        return f"{root}: this is a file of arrays and no folder; write npz:{root}"
    if found is None:
        return f"{root}: this is a file and no folder; {LAYOUTS}"
    advice = f": {found.advice}" if found.advice else ""
    return f"{root}: this is {found.name} and no folder{advice}; {LAYOUTS}"


def _one_class(folder: Path, name: str) -> str:
    """Say what to do about a folder with a single class folder in it: mostly it is the wrapping of an archive."""
    inside = folder_names(folder / name)
    hint = f"; if the class folders are those in it ({shortened(inside, 3)}), write folder:{folder / name}"
    there = hint if inside else f", it holds {_contents(folder / name)}"
    return f"{folder}: the only class folder is {name}; need at least two to tell apart{there}; {LAYOUTS}"


def _contents(folder: Path) -> str:
    images, _ = files_in(folder)
    return f"{len(images):,} images" if images else _holding(folder)


def _split_folders(root: Path) -> dict[str, Path]:
    names = folder_names(root)
    found = {name: split for name in names if (split := split_of(name)) is not None}
    train = [name for name, split in found.items() if split == "train" and folder_names(root / name)]
    if not train:  # "train" may also be a class: a vehicle
        if names and len(found) == len(names):
            holding = ", ".join(f"{name} holds {_holding(root / name)}" for name in names[:3])
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


def _list_class(folder: Path, name: str, root: Path) -> Listing:
    above = (root,) if folder == root else (root, folder)
    listing = list_images(folder / name, above)
    if not listing.paths:
        there = f"{sum(listing.left_out.counts.values()):,} files, none an image: {listing.left_out}"
        what = there if listing.left_out.counts else "it is empty"
        raise DataError(f"{folder / name}: no images in it ({what}); a class folder holds {READABLE} files")
    return listing


def _holding(folder: Path) -> str:
    """Return what a folder without class folders holds."""
    if names := folder_names(folder):
        return f"the folders {shortened(names, 3)}"
    images, others = files_in(folder)
    if images:
        return f"{len(images):,} images that belong to no class: sort them into one folder a class"
    return f"{sum(others.counts.values()):,} files: {others}" if others.counts else "nothing"


def _notes_of_files(root: Path, listings: list[tuple[str, Listing]]) -> list[str]:
    """Say what is left out of the class folders and what is read from below them."""
    left_out, loops = LeftOut(), []
    for _, listing in listings:
        left_out.update(listing.left_out)
        loops += listing.loops
    images = sum(len(listing.paths) for _, listing in listings)
    nested = sum(listing.nested for _, listing in listings)
    notes = []
    if left_out.counts:
        others = sum(left_out.counts.values())
        notes.append(f"{others:,} of {images + others:,} files left out, for they are no images: {left_out}")
    if nested:
        where = [f"{folder}/{name}" for folder, listing in listings for name in listing.subfolders]
        short = shortened((str(Path(name).relative_to(root)) for name in where), 3)
        notes.append(f"{nested:,} of {images:,} images lie in subfolders of their class folder: {short}")
    if loops:
        notes.append(f"links that lead back to a folder above them are not followed: {shortened(loops, 3)}")
    masks = [path for _, listing in listings for path in _masks(listing.paths)]
    if masks:
        notes.append(
            f"{len(masks):,} of {images:,} images are named like masks of others beside them and are read as images: "
            f"{shortened((Path(path).name for path in masks), 3)}"
        )
    return notes


def _masks(paths: list[str]) -> list[str]:
    """Return the files that are called like another one of them with ``_mask`` or the like at the end."""
    named = [path for path in paths if path.rpartition(".")[0].lower().endswith(MASK_ENDINGS)]
    stems = {path.rpartition(".")[0] for path in paths} if named else set()
    return [
        path
        for path in named
        for stem in [path.rpartition(".")[0]]
        if any(stem.lower().endswith(ending) and stem[: -len(ending)] in stems for ending in MASK_ENDINGS)
    ]


def _notes_of_folders(root: Path, folders: dict[str, Path], classes: list[str]) -> list[str]:
    """Say what lies beside the class folders and the splits, and which classes are easily taken for one."""
    notes = []
    if "all" not in folders:
        others = [name for name in folder_names(root) if root / name not in folders.values()]
        if others:
            notes.append(f"folders left out beside the splits: {shortened(others)}")
    for folder in dict.fromkeys((root, *folders.values())):
        images, _ = files_in(folder)
        if images:
            notes.append(f"{len(images):,} images left out that lie beside the class folders of {folder}: no class")
    if same := alike(classes):
        notes.append(f"classes that differ in capitals or accents only are told apart: {shortened(same)}")
    return notes
