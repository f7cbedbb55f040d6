"""Which mask belongs to which image, in the common folder layouts.

1. ``PATH/train`` next to ``PATH/trainannot`` (or ``train_labels``, ``train_masks``, ...), and the same for val and
   test: CamVid in SegNet's form;
2. ``PATH/train/images`` with ``PATH/train/masks`` (or ``labels``, ``annotations``, ``gt``, ...);
3. ``PATH/images/train`` with ``PATH/masks/train`` (ADE20K's form);
4. ``PATH/images`` with ``PATH/masks``: one split;
5. images and masks in one folder, or in ``PATH/train``, ``PATH/val``, distinguished by the suffix of the masks' names.

The path of a mask below its folder is that of its image, apart from the suffix, and may end in ``_mask`` or similar.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

from resnet_jax.data.formats import SUFFIXES
from resnet_jax.data.kinds.files import folder_names
from resnet_jax.data.layout import is_annotation, shortened, split_of
from resnet_jax.errors import DataError

MASK_ENDINGS = ("_mask", "-mask", "_masks", "_seg", "_segmentation", "_label", "_labels", "_gt", "_annotation", "_l")
IMAGE_ENDINGS = ("_image", "_img", "_sat", "_rgb", "_leftimg8bit")
EXPECTED = (
    "need PATH/images with PATH/masks, PATH/train/images with PATH/train/masks, or PATH/train with PATH/trainannot; a "
    "mask has the name of its image, or that with _mask at its end"
)
_PICTURES = re.compile(r"(jpe?g|png)?(images?|imgs?|photos?|pictures?|rgb|inputs?|frames?)|leftimgbit")

Pairs = list[tuple[str, str]]
"""Image and mask of every example."""


def find_pairs(root: Path) -> dict[str, Pairs]:
    """Return split -> image and mask of every example, sorted by image.

    Raises:
        DataError: for another layout, or an image without a mask or vice versa.
    """
    if not root.is_dir():
        what = "this is a file and no folder" if root.exists() else "there is no such folder"
        raise DataError(f"{root}: {what}; {EXPECTED}")
    names = folder_names(root)
    splits = {name: split for name in names if (split := split_of(name)) is not None}
    folders = _folders(root, names, splits)
    if folders is None:
        there = shortened(names) or "no folders"
        raise DataError(f"{root}: found {there}; {EXPECTED}")
    if "train" not in folders:
        if len(folders) > 1:
            raise DataError(f"{root}: the splits {', '.join(folders)} without train; {EXPECTED}")
        folders = {"all": next(iter(folders.values()))}
    found = {s: _matched(*folders[s]) for s in ("all", "train", "val", "test") if s in folders}
    return found if len(found) > 1 else {"all": next(iter(found.values()))}


def _folders(root: Path, names: list[str], splits: dict[str, str]) -> dict[str, tuple[Path, Path]] | None:
    """Return split -> folder of images and folder of masks, which may be the same; None for another layout."""
    pairs = [(name, split, _two_of(root / name) or _beside(root, name, names)) for name, split in splits.items()]
    found: dict[str, tuple[Path, Path]] = {}
    for name, split, two in pairs:
        if two is None and _has_masks_by_name(root / name):
            two = root / name, root / name
        if two is None:
            continue
        if split in found:
            raise DataError(f"{root}: both {found[split][0].name} and {name} are {split}; keep one of them")
        found[split] = two
    if found:
        return found
    two = _two_of(root)
    if two is not None:
        images, masks = two
        by_split = {split: name for name in folder_names(images) if (split := split_of(name)) is not None}
        masks_by_split = {split: name for name in folder_names(masks) if (split := split_of(name)) is not None}
        common = by_split.keys() & masks_by_split.keys()
        if common:
            return {split: (images / by_split[split], masks / masks_by_split[split]) for split in common}
        return {"all": two}
    return {"all": (root, root)} if _has_masks_by_name(root) else None


def _two_of(folder: Path) -> tuple[Path, Path] | None:
    """Return the folder of images and that of masks in a folder, if there is one of each."""
    names = folder_names(folder)
    pictures = [name for name in names if _PICTURES.fullmatch(re.sub(r"[^a-z]", "", name.casefold()))]
    masks = [name for name in names if is_annotation(name)]
    if not pictures or not masks:
        return None
    if len(pictures) > 1 or len(masks) > 1:
        raise DataError(
            f"{folder}: {shortened(pictures)} could be the images and {shortened(masks)} the masks; keep one of each "
            "there"
        )
    return folder / pictures[0], folder / masks[0]


def _beside(root: Path, name: str, names: list[str]) -> tuple[Path, Path] | None:
    """Return the folder of a split and that of its masks beside it: ``train`` and ``trainannot``."""
    found = [other for other in names if other != name and other.startswith(name) and is_annotation(other[len(name) :])]
    if len(found) > 1:
        raise DataError(f"{root}: {shortened(found)} could be the masks of {name}; keep one of them")
    return (root / name, root / found[0]) if found else None


def _has_masks_by_name(folder: Path) -> bool:
    stems = [_stem(path, folder) for path in files_below(folder)]
    return any(_without(stem, MASK_ENDINGS) != stem for stem in stems)


def files_below(folder: Path) -> list[str]:
    """Return the image and .npy files below a folder, sorted, without hidden ones."""
    found = []
    for above, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        suffixed = [name for name in names if os.path.splitext(name)[1].lower() in {*SUFFIXES, ".npy"}]
        found += [os.path.join(above, name) for name in suffixed if not name.startswith(".")]
    return sorted(found)


def _matched(images: Path, masks: Path) -> Pairs:
    """Return every image with its mask."""
    mask_files = files_below(masks)
    image_files = files_below(images)
    if images == masks:
        mask_files = [path for path in mask_files if _without(_stem(path, masks), MASK_ENDINGS) != _stem(path, masks)]
        image_files = sorted(set(image_files) - set(mask_files))
    if not image_files:
        raise DataError(f"{images}: there are no images in it; {EXPECTED}")
    exact, loose = {_stem(path, masks): path for path in mask_files}, defaultdict(list)
    for path in mask_files:
        loose[_without(_stem(path, masks), MASK_ENDINGS)].append(path)
    pairs, without, used = [], [], set()
    for image in image_files:
        stem = _stem(image, images)
        short = _without(stem, IMAGE_ENDINGS)
        candidates = [exact[stem]] if stem in exact else loose.get(stem) or loose.get(short) or []
        if len(candidates) > 1:
            raise DataError(f"{image}: {shortened(candidates, 3)} could be its mask; keep one of them")
        if not candidates:
            without.append(os.path.basename(image))
        else:
            pairs.append((image, candidates[0]))
            used.add(candidates[0])
    unused = [os.path.basename(path) for path in mask_files if path not in used]
    if without:
        also = f"; {len(unused):,} masks have no image: {shortened(unused, 3)}" if unused else ""
        raise DataError(
            f"{images}: {len(without):,} of {len(image_files):,} images have no mask in {masks}: "
            f"{shortened(without, 3)}{also}; {EXPECTED}"
        )
    if unused:
        raise DataError(f"{masks}: {len(unused):,} masks have no image in {images}: {shortened(unused, 3)}")
    return pairs


def _stem(path: str, folder: Path) -> str:
    return os.path.splitext(os.path.relpath(path, folder))[0]


def _without(stem: str, endings: tuple[str, ...]) -> str:
    found = next((ending for ending in endings if stem.lower().endswith(ending)), "")
    return stem[: len(stem) - len(found)]
