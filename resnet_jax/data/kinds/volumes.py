"""``volumes:PATH``: volumes (depth, height, width, channels) by class.

``PATH`` is a folder with one subfolder of ``.npy``, ``.npz`` or NIfTI files (``.nii``, ``.nii.gz``; needs
``resnet-flax[volumes]``) per class, with splits or without (see `class_files` for the layouts), read on access; or an
.npz file, read as by ``npz:PATH`` with its inputs as volumes, including MedMNIST's. All volumes must have the same
shape: nothing is resampled, cropped or padded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_jax.data.example import Example, Field, Spec
from resnet_jax.data.kinds.class_files import FileType, list_class_files, read_class_list
from resnet_jax.data.kinds.volume_file import ENDINGS, read_volume
from resnet_jax.data.npz import load_npz
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError

VOLUMES = FileType(ENDINGS, "volume files")


@dataclass(frozen=True, eq=False)
class VolumeRecords:
    """Volume files, read on access.

    Attributes:
        paths: N files.
        labels: int32 (N,).
        shape: shape of the first volume, which all must have.
        dtype: dtype of the first volume.
        encoded_bytes: the size of all files.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    shape: tuple[int, ...]
    dtype: str
    encoded_bytes: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Example:
        volume = read_volume(self.paths[index])
        if volume.shape != self.shape or volume.dtype.name != self.dtype:
            raise DataError(
                f"{self.paths[index]}: {volume.dtype} {volume.shape}, but the first volume is {self.dtype} "
                f"{self.shape}; bring all to one shape, spacing and type first"
            )
        return {"image": volume, "label": self.labels[index]}

    @property
    def spec(self) -> Spec:
        return {
            "image": Field(self.shape, self.dtype, "volume"),
            "label": Field((), self.labels.dtype.name, "label"),
        }

    def describe(self, index: int) -> str:
        return self.paths[index]


@register_source("volumes", form="volumes:PATH", uses=("class_pattern", "class_list"))
def load_volumes(path: str, reading: Reading, /) -> Dataset:
    """List the volumes of a folder, or read an .npz file.

    Raises:
        DataError: if there is no such file or folder or no volumes, for another layout, or if the first volume cannot
            be read.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return _of_file(root, path, reading)
    files = list_class_files(root, VOLUMES, reading)
    first = read_volume(next(iter(files.paths.values()))[0])
    if reading.channels not in (None, first.shape[-1]):
        raise DataError(f"{root}: volumes of {first.shape[-1]} channels, and {reading.channels} are wanted")
    splits = {
        split: VolumeRecords(
            paths, files.labels[split], first.shape, first.dtype.name, sum(os.path.getsize(name) for name in paths)
        )
        for split, paths in files.paths.items()
    }
    return Dataset(f"volumes:{path}", splits, files.names, files.notes, files.origins, reading.least_classes)


def _of_file(file: Path, path: str, reading: Reading) -> Dataset:
    if file.suffix.lower() != ".npz":
        raise DataError(f"{file}: one file of volumes is an .npz of x and y, or MedMNIST's; else name a folder of them")
    if reading.class_pattern is not None:
        raise DataError(f"{file}: data.class_pattern finds classes in names of files, and this is one file")
    names = None if reading.class_list is None else read_class_list(reading.class_list)
    return load_npz(
        path, reading.channels, reading.least_classes, meaning="volume", class_names=names, name=f"volumes:{path}"
    )
