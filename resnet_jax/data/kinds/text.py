"""``text:PATH``: text files by class, cut into windows of characters: signals (length, 1) of numbers, int16.

The class is the folder (``PATH/CLASS/*.txt``, or ``PATH/train/CLASS`` with ``PATH/test`` or ``PATH/val``), or is found
in the path by ``data.class_pattern``. A window has ``data.signal_length`` characters (128), windows do not overlap, and
the rest of a file is dropped unless the file is shorter than a window, which is then padded with zeros. Numbers are
those of :mod:`resnet_jax.data.characters`. Windows of one file are similar, so ``data.group_by group`` keeps them in
one part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnet_jax.data.characters import SYMBOLS, encoded
from resnet_jax.data.kinds.class_files import FileType, list_class_files
from resnet_jax.data.kinds.files import read_text
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import ArrayRecords, Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError

TEXTS = FileType((".txt",), "text files")
LENGTH = 128
MAX_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class TextRecords(ArrayRecords):
    """Windows of texts in memory.

    Attributes:
        groups: the number of each one's file, sorted.
        paths: the files.
    """

    groups: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    paths: tuple[str, ...] = ()

    def describe(self, index: int) -> str:
        file = int(self.groups[index])
        return f"{self.paths[file]}, window {index - int(np.searchsorted(self.groups, file)) + 1}"


@register_source("text", form="text:PATH", uses=("class_pattern", "class_list", "signal_length"))
def load_text(path: str, reading: Reading, /) -> Dataset:
    """Read the texts into memory.

    Raises:
        DataError: if there is no such folder or no texts, texts have no class, or a file is not UTF-8.
    """
    if reading.channels not in (None, 1):
        raise DataError(f"text:{path}: characters are one channel, and {reading.channels} are wanted")
    files, length = list_class_files(Path(path).expanduser(), TEXTS, reading), reading.signal_length or LENGTH
    splits, count = {}, 0
    for split, paths in files.paths.items():
        cut = [windows(encoded(read_text(file, MAX_BYTES)), length) for file in paths]
        empty = [file for file, found in zip(paths, cut, strict=True) if not len(found)]
        if empty:
            raise DataError(f"{empty[0]}: there are no characters in it but spaces; remove it")
        of = np.repeat(np.arange(len(paths)), [len(found) for found in cut])
        splits[split] = TextRecords(
            np.concatenate(cut)[..., None],
            files.labels[split][of],
            name="text",
            meaning="signal",
            groups=of,
            paths=paths,
        )
        count += len(of)
    total = sum(map(len, files.paths.values()))
    notes = (f"{total:,} texts cut into {count:,} windows of {length:,} characters, of {SYMBOLS} symbols", *files.notes)
    return Dataset(f"text:{path}", splits, files.names, notes, files.origins, reading.least_classes)


def windows(numbers: np.ndarray, length: int) -> np.ndarray:
    """Return non-overlapping windows (n, length) of a text; a short text gives one, padded with zeros.

    >>> windows(np.arange(1, 6), 2).tolist(), windows(np.arange(1, 3), 3).tolist()
    ([[1, 2], [3, 4]], [[1, 2, 0]])
    """
    if 0 < len(numbers) < length:
        return np.pad(numbers, (0, length - len(numbers)))[None]
    return numbers[: len(numbers) // length * length].reshape(-1, length)
