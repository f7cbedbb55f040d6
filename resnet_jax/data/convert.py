"""Copying any data set into one ArrayRecord file, which ``array_record:PATH`` opens."""

from __future__ import annotations

import collections
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.decode import NPY
from resnet_jax.data.encoded import encoder_of
from resnet_jax.data.example import fields_of
from resnet_jax.data.formats import HEAD_BYTES, identify
from resnet_jax.data.reading import Reading
from resnet_jax.data.record_file import writing
from resnet_jax.data.record_format import Header, StoredField, StoredSplit, pack, to_npy
from resnet_jax.data.records import Dataset, Source, groups_of
from resnet_jax.data.source import load_dataset
from resnet_jax.errors import DataError, UsageError

CHUNK = 64
"""Number of examples that one task of the thread pool reads."""
EVERY = 0.5
"""Seconds between two reports of progress."""


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        source: what was copied.
        out: the file.
        examples: split -> number of examples.
        encoded: split -> whether its image files were copied unchanged.
        size: size of the file in bytes.
        seconds: time it took.
    """

    source: str
    out: Path
    examples: dict[str, int]
    encoded: dict[str, bool]
    size: int
    seconds: float

    def lines(self) -> list[str]:
        """Return the lines to print."""
        splits = ", ".join(f"{count:,} {split}" for split, count in self.examples.items())
        how = "image files copied as they are" if all(self.encoded.values()) else "arrays"
        if any(self.encoded.values()) and not all(self.encoded.values()):
            how = "image files copied as they are, and arrays"
        return [
            f"{self.out}: {splits} examples of {self.source} ({how}), {self.size / 1e6:,.1f} MB in "
            f"{self.seconds:,.1f} s",
            f"open it as array_record:{self.out}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the result for ``--json``."""
        return {**dataclasses.asdict(self), "out": str(self.out), "opens_as": f"array_record:{self.out}"}


def convert(
    spec: str,
    out: Path,
    *,
    reading: Reading | None = None,
    threads: int = 4,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Converted:
    """Copy all splits of a data set into a file, which appears only when it is complete.

    Args:
        spec: the data set, as for :func:`load_dataset`.
        out: the file.
        reading: how the source is read; image files are copied whatever it says about their pixels.
        threads: threads that read the source.
        overwrite: replace ``out`` if it exists.
        progress: called now and then with the progress.

    Raises:
        UsageError: if ``out`` already exists, or cannot be a file.
        DataError: if the source cannot be read, or the disk is full.
    """
    out = Path(out).expanduser()
    _check_out(out, overwrite)
    return write_dataset(load_dataset(spec, reading or Reading(least_classes=1)), out, threads, progress)


def write_dataset(
    dataset: Dataset, out: Path, threads: int = 4, progress: Callable[[str], None] = lambda _: None
) -> Converted:
    """Write an open data set, replacing the file; see :func:`convert`.

    Raises:
        DataError: if the source cannot be read, or the disk is full.
    """
    began = time.perf_counter()
    encoders = {split: encoder_of(records) for split, records in dataset.splits.items()}
    fields = {
        split: _fields(records, encoders[split] is not None, split, dataset.name)
        for split, records in dataset.splits.items()
    }
    compress = any(not one.encoded for stored in fields.values() for one in stored)
    _check_space(dataset, out)
    report = _Report(sum(len(records) for records in dataset.splits.values()), progress)
    splits: list[StoredSplit] = []
    with writing(out, compress=compress) as append:
        for split, records in dataset.splits.items():
            encoder = encoders[split]
            size = 0
            for record in _packed(records, fields[split], encoder, dataset.name, threads):
                append(record)
                size += len(record)
                report.one()
            stored = StoredSplit(split, len(records), fields[split], 0, None, encoder[1] if encoder else 0, size)
            splits.append(stored)
        header = _append_header(append, dataset, splits)
        append(header.to_bytes())
    return Converted(
        dataset.name,
        out,
        {split: len(records) for split, records in dataset.splits.items()},
        {split: encoder is not None for split, encoder in encoders.items()},
        out.stat().st_size,
        time.perf_counter() - began,
    )


def _append_header(append: Callable[[bytes], None], dataset: Dataset, splits: list[StoredSplit]) -> Header:
    """Append labels and groups; return the header, which contains their positions."""
    number = sum(split.count for split in splits)
    placed = []
    for split in splits:
        records = dataset.splits[split.name]
        append(to_npy(records.labels))
        labels, number = number, number + 1
        groups = groups_of(records)
        if groups is not None:
            append(to_npy(np.asarray(groups)))
            number += 1
        placed.append(dataclasses.replace(split, labels=labels, groups=None if groups is None else labels + 1))
    return Header(dataset.name, dataset.kind, dataset.class_names, dataset.notes, dict(dataset.origins), tuple(placed))


def _fields(records: Source, encoded: bool, split: str, name: str) -> tuple[StoredField, ...]:
    try:
        return tuple(
            StoredField(key, field, encoded and key == "image") for key, field in fields_of(records.spec).items()
        )
    except DataError as error:
        raise DataError(f"{name}, split {split!r}: {error}") from error


def _packed(
    records: Source,
    fields: tuple[StoredField, ...],
    encoder: tuple[Callable[[int], bytes], int] | None,
    name: str,
    threads: int,
) -> Iterator[bytes]:
    """Yield the records of a split in order, read by several threads a few tasks ahead."""
    only_files = encoder is not None and len(fields) == 1

    def one(index: int) -> bytes:
        where = records.describe(index)
        values: dict[str, np.ndarray | bytes] = {}
        if not only_files:
            example = records[index]
            values |= {stored.name: np.asarray(example[stored.name]) for stored in fields if not stored.encoded}
        if encoder is not None:
            values["image"] = _checked(encoder[0](index), where)
        return pack(fields, values, _origin(where, index, name), where)

    def several(start: int) -> list[bytes]:
        return [one(index) for index in range(start, min(start + CHUNK, len(records)))]

    waiting: collections.deque[Future[list[bytes]]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start in range(0, len(records), CHUNK):
                waiting.append(pool.submit(several, start))
                if len(waiting) > 2 * threads:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _checked(data: bytes, where: str) -> bytes:
    """Reject files that are not images by their first bytes; whether they can be decoded is not tested."""
    found = identify(data[:HEAD_BYTES])
    if not data.startswith(NPY) and (found is None or not found.readable):
        what = "it is empty (0 bytes)" if not data else f"it is {found.name if found else 'no image that is known'}"
        raise DataError(f"{where}: {what}; restore the file or remove it")
    return data


def _origin(where: str, index: int, name: str) -> str:
    """Return where an example came from, below its source; empty if that is only its number."""
    if where.startswith(f"index {index} of "):
        return ""
    return where.removeprefix(name.partition(":")[2].rstrip("/") + "/")


def _check_out(out: Path, overwrite: bool) -> None:
    if out.is_dir():
        raise UsageError(f"{out} is a folder; name the file to write, such as {out / 'data.array_record'}")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} is there already; --overwrite replaces it")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.parent}; make it first")


def _check_space(dataset: Dataset, out: Path) -> None:
    """Reject a copy that cannot fit before anything is read, if the source knows its size."""
    sizes = [getattr(records, "encoded_bytes", None) or 0 for records in dataset.splits.values()]
    free = shutil.disk_usage(out.parent).free
    if sum(sizes) > free:
        raise DataError(
            f"{out}: the examples of {dataset.name} take {sum(sizes) / 1e9:,.2f} GB and {free / 1e9:,.2f} GB are free "
            "there; free some space, or write to another disk"
        )


class _Report:
    """Reports the progress of the copy, not too often."""

    def __init__(self, total: int, progress: Callable[[str], None]):
        self.total, self.progress, self.done = total, progress, 0
        self.began = self.told = time.perf_counter()

    def one(self) -> None:
        """Count an example."""
        self.done += 1
        now = time.perf_counter()
        if now - self.told >= EVERY:
            self.told = now
            rate = self.done / (now - self.began)
            left = (self.total - self.done) / rate
            self.progress(f"{self.done:,} of {self.total:,} examples, {rate:,.0f} a second, {left:,.0f} s to go")
