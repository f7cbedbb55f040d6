"""``wav:PATH``: sound files by class, each a signal (length, channels), float32 in [-1, 1).

The class is the folder (``PATH/CLASS/*.wav``, or ``PATH/train/CLASS`` with ``PATH/test`` or ``PATH/val``), or is found
in the path by ``data.class_pattern``: ``'^([0-9]+)_'``. If ``PATH`` contains Speech Commands' ``testing_list.txt`` and
``validation_list.txt``, the files they list are the splits test and val, and the rest is train.

Headers are read on opening: all sounds must have the same sampling rate and number of channels; nothing is resampled or
mixed. **Sounds of different lengths** are padded with zeros to the longest of all splits; with ``data.signal_length``
they are brought to that length: shorter ones are padded with zeros, longer ones are cut at the end. FLAC and Ogg need
``resnet-flax[audio]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_jax.data.example import Example, Field, Spec
from resnet_jax.data.in_memory import in_threads
from resnet_jax.data.kinds.class_files import ClassFiles, FileType, list_class_files
from resnet_jax.data.kinds.files import raise_together, read_text
from resnet_jax.data.kinds.wave_file import OTHERS, SoundHeader, read_header, read_samples
from resnet_jax.data.layout import shortened
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError

SOUNDS = FileType((".wav", ".wave", *OTHERS), "sound files")
LISTS = {"validation_list.txt": "val", "testing_list.txt": "test"}
"""Lists of paths below the folder, as in Speech Commands, and the split that each defines."""
NOISE = "_background_noise_"
"""A folder of Speech Commands that is not a class: minutes of noise for mixing."""
CHUNK = 64


@dataclass(frozen=True, eq=False)
class SoundRecords:
    """Sound files, read on access, cut or padded with zeros at the end to the same length.

    Attributes:
        paths: N files.
        labels: int32 (N,).
        lengths: int64 (N,), number of samples in each file.
        rate: their sampling rate.
        channels: their number of channels.
        length: number of samples of every example.
        encoded_bytes: the size of all files, as far as it is known.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    lengths: np.ndarray
    rate: int
    channels: int
    length: int
    encoded_bytes: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Example:
        path = self.paths[index]
        values, header = read_samples(path)
        if (header.rate, header.channels) != (self.rate, self.channels):
            raise DataError(f"{path}: {_said(header)}, when it was opened {self.rate:,} Hz, {self.channels} channels")
        return {"image": brought_to(values, self.length), "label": self.labels[index]}

    @property
    def spec(self) -> Spec:
        image = Field((self.length, self.channels), "float32", "signal")
        return {"image": image, "label": Field((), self.labels.dtype.name, "label")}

    def describe(self, index: int) -> str:
        return self.paths[index]


def brought_to(values: np.ndarray, length: int) -> np.ndarray:
    """Return a signal (L, C) padded with zeros or cut at the end, as (length, C).

    >>> brought_to(np.ones((2, 1), np.float32), 3)[:, 0].tolist()
    [1.0, 1.0, 0.0]
    """
    if len(values) >= length:
        return values[:length]
    padded = np.zeros((length, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded


def length_note(lengths: np.ndarray, length: int, what: str) -> str:
    """Describe how signals of several lengths were brought to one; empty if all have the same length."""
    shorter, longer = int((lengths < length).sum()), int((lengths > length).sum())
    if not shorter and not longer:
        return ""
    low, middle, high = int(lengths.min()), int(np.median(lengths)), int(lengths.max())
    said = f"{what} have {low:,} to {high:,} values (median {middle:,}), brought to {length:,}"
    parts = [f"{shorter:,} end in zeros"] if shorter else []
    parts += [f"{longer:,} lose their end"] if longer else []
    hint = "" if longer else "; data.signal_length chooses another length"
    return f"{said}: {' and '.join(parts)} of {len(lengths):,}{hint}"


@register_source("wav", form="wav:PATH", uses=("class_pattern", "class_list", "signal_length"))
def load_wav(path: str, reading: Reading, /) -> Dataset:
    """List the sounds and read their headers.

    Raises:
        DataError: if there is no such folder or no sounds, sounds have no class or differ in rate or channels, or are
            broken.
    """
    root = Path(path).expanduser()
    files = _with_lists(root, list_class_files(root, SOUNDS, reading))
    headers = {split: _headers(paths) for split, paths in files.paths.items()}
    first_split = next(iter(headers))
    first, where = headers[first_split][0], files.paths[first_split][0]
    for split, found in headers.items():
        for header, name in zip(found, files.paths[split], strict=True):
            if (header.rate, header.channels) != (first.rate, first.channels):
                raise DataError(
                    f"{name}: {_said(header)}, but {where}: {_said(first)}; sounds are neither resampled nor mixed "
                    "here: bring all to one sample rate and one number of channels first"
                )
    if reading.channels not in (None, first.channels):
        raise DataError(f"{where}: {_said(first)}, and {reading.channels} channels are wanted; channels are not mixed")
    lengths = {split: np.array([header.frames for header in found], np.int64) for split, found in headers.items()}
    every = np.concatenate(list(lengths.values()))
    length = reading.signal_length or int(every.max())
    splits = {
        split: SoundRecords(
            paths,
            files.labels[split],
            lengths[split],
            first.rate,
            first.channels,
            length,
            sum(header.frames * header.channels * header.bits // 8 for header in headers[split]),
        )
        for split, paths in files.paths.items()
    }
    said = length_note(every, length, "sounds")
    notes = (f"sounds at {first.rate:,} Hz, {first.channels} channel{'s' * (first.channels > 1)}", *files.notes)
    notes = (*notes, said) if said else notes
    return Dataset(f"wav:{path}", splits, files.names, notes, files.origins, reading.least_classes)


def _said(header: SoundHeader) -> str:
    return f"{header.rate:,} Hz, {header.channels} channel{'s' * (header.channels > 1)}"


def _headers(paths: tuple[str, ...]) -> list[SoundHeader]:
    found: list[SoundHeader] = [SoundHeader(0, 0, 0)] * len(paths)
    errors: dict[int, DataError] = {}

    def read(start: int) -> None:
        for index in range(start, min(start + CHUNK, len(paths))):
            try:
                found[index] = read_header(paths[index])
            except DataError as error:
                errors[index] = error

    in_threads(read, range(0, len(paths), CHUNK))
    raise_together([errors[index] for index in sorted(errors)], len(paths))
    return found


def _with_lists(root: Path, files: ClassFiles) -> ClassFiles:
    """Divide the files of one split according to Speech Commands' lists, without its folder of noise."""
    lists = {split: root / name for name, split in LISTS.items() if (root / name).is_file()}
    if "all" not in files.paths or not lists:
        return files
    of = {line.strip(): split for split, path in lists.items() for line in read_text(path).splitlines() if line.strip()}
    noise = files.names.index(NOISE) if NOISE in files.names else -1
    kept = [index for index, label in enumerate(files.labels["all"]) if label != noise]
    below = [Path(files.paths["all"][index]).relative_to(root).as_posix() for index in kept]
    gone = sorted(set(of) - set(below))
    if gone:
        named = {split: path.name for split, path in lists.items()}
        raise DataError(
            f"{root / named[of[gone[0]]]} lists {len(gone):,} files that are not there: {shortened(gone, 3)}"
        )
    parts = {split: [] for split in ("train", "val", "test")}
    for index, name in zip(kept, below, strict=True):
        parts[of.get(name, "train")].append(index)
    labels = files.labels["all"]
    labels = labels - (labels > noise) if noise >= 0 else labels
    names = tuple(name for name in files.names if name != NOISE)
    notes = (*files.notes, f"{len(of):,} files listed in {' and '.join(path.name for path in lists.values())}")
    if noise >= 0:
        notes = (*notes, f"{len(files.labels['all']) - len(kept):,} files of {NOISE} left out: they are no class")
    chosen = {split: part for split, part in parts.items() if part}
    return ClassFiles(
        {split: tuple(files.paths["all"][index] for index in part) for split, part in chosen.items()},
        {split: labels[part].astype(np.int32) for split, part in chosen.items()},
        names,
        notes,
    )
