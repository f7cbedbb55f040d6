"""``cifar:PATH``: CIFAR-10 and CIFAR-100 as they are published, for Python or in the binary version.

PATH is the downloaded archive (``cifar-10-python.tar.gz``), its unpacked folder (``cifar-10-batches-py``,
``cifar-100-python``, ``cifar-10-batches-bin``, ``cifar-100-binary``), or a folder that contains one of these. The
labels of CIFAR-100 are the 100 fine ones; ``cifar:PATH@coarse`` selects the 20 coarse ones. All 60,000 images (184 MB)
are held in memory. The pickles of the Python version are not executed (:mod:`resnet_jax.data.plain_arrays`).

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.decode import check_channels, to_channels
from resnet_jax.data.layout import shortened
from resnet_jax.data.plain_arrays import load_plain_arrays
from resnet_jax.data.published import read_files
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import ArrayRecords, Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError, UsageError

IMAGE_BYTES = 3 * 32 * 32
FOLDERS = ("cifar-10-batches-py", "cifar-100-python", "cifar-10-batches-bin", "cifar-100-binary")
FORM = "cifar:PATH or cifar:PATH@coarse"


@dataclasses.dataclass(frozen=True)
class Version:
    """The storage layout of one of the archives.

    Attributes:
        name: its name.
        train: files of training images, in order.
        test: the file of test images.
        labels: where the requested labels are: the key in a pickle, or the number of bytes before the pixels.
        names: where the class names are: a file, and in a pickle the key.
        count: number of classes.
        official: numbers of training and test images in the published set.
    """

    name: str
    train: tuple[str, ...]
    test: str
    labels: str | int
    names: tuple[str, str]
    count: int
    official: tuple[int, int] = (50_000, 10_000)

    @property
    def binary(self) -> bool:
        """Whether it is the binary version."""
        return isinstance(self.labels, int)

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read."""
        return (*self.train, self.test, self.names[0])


_TEN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEN_BINARY = tuple(f"{name}.bin" for name in _TEN)
_FINE, _COARSE = "fine_label_names", "coarse_label_names"
#: Whether coarse labels are requested -> the versions.
VERSIONS = {
    False: (
        Version("CIFAR-10", _TEN, "test_batch", "labels", ("batches.meta", "label_names"), 10),
        Version("CIFAR-10", _TEN_BINARY, "test_batch.bin", 1, ("batches.meta.txt", ""), 10),
        Version("CIFAR-100", ("train",), "test", "fine_labels", ("meta", _FINE), 100),
        Version("CIFAR-100", ("train.bin",), "test.bin", 1, (f"{_FINE}.txt", ""), 100),
    ),
    True: (
        Version("CIFAR-100 (coarse)", ("train",), "test", "coarse_labels", ("meta", _COARSE), 20),
        Version("CIFAR-100 (coarse)", ("train.bin",), "test.bin", 2, (f"{_COARSE}.txt", ""), 20),
    ),
}


@register_source("cifar", form=FORM)
def load_cifar(location: str, reading: Reading, /) -> Dataset:
    """Read an archive or its folder into memory.

    Raises:
        DataError: if it is not one of these archives, or is incomplete or malicious.
        UsageError: for labels or channels that it does not have.
    """
    check_channels(reading.channels)
    path, labels = location, "fine"
    for ending in ("fine", "coarse"):
        if location.endswith(f"@{ending}"):
            path, labels = location[: -len(ending) - 1], ending
    place = _place(Path(path).expanduser())
    versions = VERSIONS[labels == "coarse"]
    names = {name for version in versions for name in version.files}
    files = read_files(place, names.__contains__)
    version = _version(place, files, versions, labels)
    splits = {}
    for split, parts in (("train", version.train), ("test", (version.test,))):
        found = [_read(files[name], version, f"{place}/{name}") for name in parts]
        images, numbers = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        images = to_channels(np.ascontiguousarray(images.transpose(0, 2, 3, 1)), reading.channels)
        splits[split] = ArrayRecords(images, numbers, name=f"the {split} images of {place}")
    class_names = _class_names(files[version.names[0]], version, f"{place}/{version.names[0]}")
    counts = tuple(len(splits[split]) for split in ("train", "test"))
    notes = []
    if counts != version.official:
        expected = " and ".join(f"{count:,}" for count in version.official)
        notes.append(f"{counts[0]:,} training and {counts[1]:,} test images; {version.name} has {expected}")
    if reading.channels == 1:
        notes.append("the images are RGB, converted to gray: the network takes 1 channel")
    return Dataset(f"cifar:{location}", splits, class_names, tuple(notes), {}, reading.least_classes)


def is_cifar(names: Iterable[str]) -> bool:
    """Return whether the names in a folder are those of an archive, or of a single folder in it.

    >>> is_cifar(["cifar-10-batches-py", "notes.txt"]), is_cifar(["train", "test"])
    (True, False)
    """
    names = set(names)
    return len(names & set(FOLDERS)) == 1 or any(set(version.files) <= names for version in VERSIONS[False])


def _place(path: Path) -> Path:
    """Return the archive or the folder that directly contains its files."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; need an archive of CIFAR-10 or CIFAR-100")
    inside = [path / name for name in FOLDERS if (path / name).is_dir()] if path.is_dir() else []
    if len(inside) > 1:
        raise DataError(
            f"{path}: there are {shortened(str(place.name) for place in inside)}; name one: cifar:{inside[0]}"
        )
    return inside[0] if inside else path


def _version(place: Path, files: Mapping[str, bytes], versions: Sequence[Version], labels: str) -> Version:
    """Return the version whose files exist."""
    begun = [
        version for version in versions if version.names[0] in files or {*version.train, version.test} & set(files)
    ]
    if not begun:
        if labels == "coarse":
            raise UsageError(f"cifar:{place}@coarse: only CIFAR-100 has coarse labels, and these are not its files")
        raise DataError(
            f"{place}: no files of CIFAR here; need an archive as it is downloaded (cifar-10-python.tar.gz), or the "
            f"folder in it ({', '.join(FOLDERS)})"
        )
    whole = [version for version in begun if set(version.files) <= set(files)]
    if len(whole) > 1:
        raise DataError(f"{place}: there are files of several versions of CIFAR; put each in a folder of its own")
    if not whole:
        missing = [name for name in begun[0].files if name not in files]
        raise DataError(f"{place}: {shortened(missing)} of {begun[0].name} is missing; unpack the archive again")
    return whole[0]


def _read(data: bytes, version: Version, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 (N, 3, 32, 32), and labels, int32 (N,), of one file."""
    if isinstance(version.labels, int):
        before = 2 if version.count != 10 else 1  # CIFAR-100 has both labels, the coarse one first
        if not data or len(data) % (before + IMAGE_BYTES):
            raise DataError(
                f"{where}: {len(data):,} bytes, and an image with its labels has {before + IMAGE_BYTES:,}: it is cut "
                "short, or another file"
            )
        rows = np.frombuffer(data, np.uint8).reshape(-1, before + IMAGE_BYTES)
        pixels, labels = rows[:, before:], rows[:, before - version.labels]
    else:
        found = load_plain_arrays(data, where)
        pixels, labels = _fields(found, ("data", version.labels), where)
    try:
        numbers = np.asarray(labels, np.int64)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: its labels are no numbers") from None
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (IMAGE_BYTES,):
        raise DataError(f"{where}: 'data' is not uint8 (N, {IMAGE_BYTES:,})")
    if numbers.shape != (len(pixels),) or not len(pixels):
        raise DataError(f"{where}: {len(pixels):,} images and labels of shape {numbers.shape}")
    if numbers.min() < 0 or numbers.max() >= version.count:
        raise DataError(
            f"{where}: labels from {numbers.min()} to {numbers.max()}; {version.name} has 0 to {version.count - 1}"
        )
    return pixels.reshape(-1, 3, 32, 32), numbers.astype(np.int32)


def _fields(found: Any, keys: Sequence[str], where: str) -> list[Any]:
    if not isinstance(found, dict):
        raise DataError(f"{where}: a pickled {type(found).__name__}; need a dictionary with {', '.join(keys)}")
    for key in keys:
        if key not in found:
            raise DataError(f"{where}: no {key!r}; found {shortened(str(name) for name in found) or 'nothing'}")
    return [found[key] for key in keys]


def _class_names(data: bytes, version: Version, where: str) -> tuple[str, ...]:
    file, key = version.names
    if version.binary:
        names = data.decode("utf-8", "replace").split()
    else:
        (names,) = _fields(load_plain_arrays(data, where), (key,), where)
    if not isinstance(names, list) or len(names) != version.count or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: {file} does not name {version.count} classes")
    return tuple(names)
