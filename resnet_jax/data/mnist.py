"""``mnist:PATH``: a folder of IDX files, as MNIST, Fashion-MNIST, KMNIST and EMNIST are published.

``train-images-idx3-ubyte`` with ``train-labels-idx1-ubyte``, and ``t10k-...`` (or ``test-...``) for the test, each
optionally gzipped (``.gz``), also with ``.idx3`` for ``-idx3``. If a folder contains several sets, their files begin
with the name of the set (``emnist-letters-train-...``), and ``mnist:PATH@emnist-letters`` selects one. Without a test
pair everything is one split.

Classes are named by their numbers; by the characters of ``emnist-letters-mapping.txt`` if that is in the folder; or by
``data.class_list``, one name per line in label order, because the files of Fashion-MNIST do not contain names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from resnet_jax.data.class_list import names_in_order
from resnet_jax.data.decode import check_channels, to_channels
from resnet_jax.data.idx import read_idx
from resnet_jax.data.layout import shortened
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import ArrayRecords, Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError
from resnet_jax.runtime.plain_files import read_text

EXPECTED = "need train-images-idx3-ubyte and train-labels-idx1-ubyte (or .gz), and t10k-... for the test"
_NAME = re.compile(r"(?:(.+)-)?(train|t10k|test)-(images|labels)[-.]idx([13])-ubyte(?:\.gz)?")
_SPLITS = {"train": "train", "t10k": "test", "test": "test"}


@register_source("mnist", form="mnist:PATH or mnist:PATH@PREFIX", uses=("class_list",))
def load_mnist(location: str, reading: Reading, /) -> Dataset:
    """Read the files into memory.

    Raises:
        DataError: if they do not exist, are damaged, or do not belong together.
    """
    check_channels(reading.channels)
    path, _, prefix = location.partition("@") if not Path(location).expanduser().exists() else (location, "", None)
    folder = Path(path).expanduser()
    sets = _find(folder)
    prefix = _choose(sets, prefix, folder)
    files = sets[prefix]
    arrays = {split: _read_pair(files, split, folder) for split in ("train", "test") if _any(files, split)}
    if len(arrays) == 2 and arrays["train"][0].shape[1:] != arrays["test"][0].shape[1:]:
        raise DataError(f"{folder}: training and test images have other sizes; they are not of one set")
    labels, names, notes = _named(arrays, folder, prefix, reading)
    splits = {}
    for split, (images, _) in arrays.items():
        images = to_channels(images[..., None], reading.channels)
        splits[split if len(arrays) == 2 else "all"] = ArrayRecords(images, labels[split], name=f"{split} of {folder}")
    if len(arrays) == 1:
        notes.append(f"only the {next(iter(arrays))} files are there: they are divided here")
    if "emnist" in prefix.casefold():
        notes.append("the images of EMNIST are stored with rows and columns exchanged, and are left so")
    return Dataset(f"mnist:{location}", splits, names, tuple(notes), {}, reading.least_classes)


def is_mnist(names: Iterable[str]) -> bool:
    """Return whether the names in a folder are those of such a set.

    >>> is_mnist(["readme.txt", "train-images-idx3-ubyte.gz"]), is_mnist(["train", "test"])
    (True, False)
    """
    return any(_NAME.fullmatch(name) for name in names)


def _find(folder: Path) -> dict[str, dict[tuple[str, str], Path]]:
    """Return prefix -> (split, images or labels) -> file."""
    if not folder.is_dir():
        what = "this is a file; name the folder it is in" if folder.exists() else "there is no such folder"
        raise DataError(f"{folder}: {what}; {EXPECTED}")
    sets: dict[str, dict[tuple[str, str], Path]] = {}
    for file in sorted(folder.iterdir()):
        match = _NAME.fullmatch(file.name)
        if match is None or not file.is_file():
            continue
        if (match[3] == "images") != (match[4] == "3"):
            raise DataError(f"{file}: {match[3]} are no idx{match[4]} files; {EXPECTED}")
        files, key = sets.setdefault(match[1] or "", {}), (_SPLITS[match[2]], match[3])
        if key in files and file.name != f"{files[key].name}.gz":
            raise DataError(f"{folder}: both {files[key].name} and {file.name} are there; keep one of them")
        files.setdefault(key, file)  # beside an unpacked file its archive is passed over: they are sorted
    if not sets:
        raise DataError(f"{folder}: no IDX files in it; {EXPECTED}")
    return sets


def _choose(sets: dict[str, dict[tuple[str, str], Path]], prefix: str | None, folder: Path) -> str:
    if prefix is None or (prefix == "" and len(sets) == 1):
        if len(sets) > 1:
            raise DataError(f"{folder}: the sets {shortened(sets)} are in it; name one: mnist:{folder}@{max(sets)}")
        return next(iter(sets))
    close = [name for name in sets if name == prefix] or [name for name in sets if name.endswith(f"-{prefix}")]
    if len(close) != 1:
        raise DataError(f"{folder}: no set {prefix!r} in it; there are {shortened(repr(name) for name in sets)}")
    return close[0]


def _any(files: dict[tuple[str, str], Path], split: str) -> bool:
    return any(key[0] == split for key in files)


def _read_pair(files: dict[tuple[str, str], Path], split: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    for what in ("images", "labels"):
        if (split, what) not in files:
            there = files[split, "labels" if what == "images" else "images"].name
            raise DataError(f"{folder}: {there} is there without its {what}; {EXPECTED}")
    images, labels = read_idx(files[split, "images"], 3), read_idx(files[split, "labels"], 1)
    if len(images) != len(labels) or not images.size:
        raise DataError(
            f"{folder}: {len(images):,} images in {files[split, 'images'].name} and {len(labels):,} labels in "
            f"{files[split, 'labels'].name}"
        )
    return images, labels


def _named(
    arrays: dict[str, tuple[np.ndarray, np.ndarray]], folder: Path, prefix: str, reading: Reading
) -> tuple[dict[str, np.ndarray], tuple[str, ...], list[str]]:
    """Return the labels, counted from 0, the names of the classes and notes."""
    found = {split: labels.astype(np.int32) for split, (_, labels) in arrays.items()}
    mapping = folder / f"{prefix}-mapping.txt"
    numbers, names, notes = _mapping(mapping) if mapping.is_file() else (None, None, [])
    if numbers is None:
        most = max(int(labels.max()) for labels in found.values())
        numbers, names = np.arange(most + 1), tuple(str(number) for number in range(most + 1))
    elif len(numbers) and numbers[0] != 0:
        notes.append(f"labels begin at {numbers[0]}: they are counted from 0, as {mapping.name} names them")
    for split, labels in found.items():
        unknown = np.setdiff1d(labels, numbers)
        if len(unknown):
            raise DataError(f"{mapping}: it does not name the labels {shortened(map(str, unknown))} of {split}")
        found[split] = np.searchsorted(numbers, labels).astype(np.int32)
    if reading.class_list is not None:
        names = names_in_order(reading.class_list, len(numbers))
    return found, names or (), notes


def _mapping(path: Path) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Return labels in order and their names: each line has a label and its character codes."""
    try:
        rows = [
            [int(word) for word in line.split()]
            for line in read_text(path, encoding="ascii").splitlines()
            if line.strip()
        ]
        pairs = sorted((row[0], chr(row[1])) for row in rows)
    except (ValueError, IndexError, OSError, OverflowError) as error:
        raise DataError(f"{path}: cannot read it as labels and codes of characters ({error})") from error
    if len({label for label, _ in pairs}) != len(pairs):
        raise DataError(f"{path}: a label is given twice")
    return np.array([label for label, _ in pairs]), tuple(name for _, name in pairs), []
