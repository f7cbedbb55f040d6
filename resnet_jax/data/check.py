"""Examination of every example of a data set: unreadable examples, duplicates, and counts by size.

Examples are decoded in threads and discarded; 300 bytes are kept of each: a digest, a hash and a small gray image
(:mod:`resnet_jax.data.check_hash`).
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from resnet_jax.data.check_contents import Contents, contents_for
from resnet_jax.data.check_hash import (
    LIKENESS,
    MOST_IN_BAND,
    NEAR,
    NEIGHBOURS,
    SIDE,
    THUMB,
    digest,
    hashes_of,
    near_pairs,
    small_grey,
    thumbs_of,
)
from resnet_jax.data.check_modes import stored_mode
from resnet_jax.data.check_report import CheckReport, Group
from resnet_jax.data.in_memory import in_threads
from resnet_jax.data.records import Dataset, Source
from resnet_jax.data.stats import MomentCounter, PixelCounter, counter_for
from resnet_jax.errors import DataError

CHUNK = 64
"""Number of examples a thread takes at a time."""

Say = Callable[[str], None]


@dataclass
class _Split:
    """What is kept of the examples of a split."""

    name: str
    source: Source
    digests: np.ndarray
    hashes: np.ndarray
    thumbs: np.ndarray
    readable: np.ndarray

    @classmethod
    def of(cls, name: str, source: Source, images: bool) -> _Split:
        count = len(source)
        hashed = count if images else 0
        return cls(
            name,
            source,
            np.zeros((count, 32), np.uint8),
            np.zeros(hashed, np.uint64),
            np.zeros((hashed, THUMB * THUMB), np.int8),
            np.zeros(count, bool),
        )


@dataclass
class _Found:
    """The findings on a part of the examples, or all of them."""

    contents: Contents
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[str, int, str]] = field(default_factory=list)
    counters: dict[tuple[str, int], PixelCounter | MomentCounter] = field(default_factory=dict)

    def join(self, other: _Found) -> None:
        self.contents.join(other.contents)
        self.shapes.update(other.shapes)
        self.dtypes.update(other.dtypes)
        self.modes.update(other.modes)
        self.unreadable += other.unreadable
        for key, counter in other.counters.items():
            if key in self.counters:
                self.counters[key].join(counter)  # type: ignore[arg-type]
            else:
                self.counters[key] = counter


def check_dataset(
    dataset: Dataset,
    *,
    near: int = NEAR,
    likeness: float = LIKENESS,
    threads: int | None = None,
    progress: Say = lambda text: None,
) -> CheckReport:
    """Examine every example of a data set.

    Args:
        dataset: any data set.
        near: maximum number of bits, out of 64, in which the hashes of near duplicates differ.
        likeness: minimum correlation of their small gray images.
        threads: decoding threads; None for one per processor.
        progress: called now and then with what is being done.

    Returns:
        The findings; nothing that is wrong with an example raises an error.

    >>> from resnet_jax.data import load_dataset
    >>> report = check_dataset(load_dataset("digits"))
    >>> len(report.unreadable), len(report.same), report.problems()
    (0, 0, ())
    """
    began = time.perf_counter()
    images = all(source.spec["image"].meaning == "image" for source in dataset.splits.values())
    splits = [_Split.of(name, source, images) for name, source in dataset.splits.items()]
    found = _Found(contents_for(dataset))
    for split in splits:
        _look(split, found, dataset, threads, progress)
    progress("comparing")
    same, near_found, full = _duplicates(splits, dataset, near, likeness, images)
    mean, std = _moments(found.counters)
    facts, details = found.contents.described(dataset)
    if full:
        facts.append(
            f"search    {full:,} images share a part of their hash with more than {MOST_IN_BAND:,} others, and were "
            f"compared with the {NEIGHBOURS:,} next ones only"
        )
    return CheckReport(
        source=dataset.name,
        kind=dataset.kind,
        class_names=dataset.class_names,
        examples={split.name: len(split.source) for split in splits},
        counts=found.contents.counts(dataset),
        counted=found.contents.counted,
        shapes=found.shapes,
        dtypes=found.dtypes,
        modes=found.modes,
        unreadable=tuple(_unreadable(splits, found.unreadable)),
        same=tuple(same),
        near=tuple(near_found),
        looked_for_near=images,
        mean=mean,
        std=std,
        facts=tuple(facts),
        details=details,
        notes=dataset.notes,
        seconds=time.perf_counter() - began,
    )


def _look(split: _Split, found: _Found, dataset: Dataset, threads: int | None, progress: Say) -> None:
    """Decode the examples of a split, and keep what is needed of each."""
    lock, count, done = threading.Lock(), len(split.source), [0]
    counted = split.name in ("train", "all")
    files = os.path.isfile(split.source.describe(0)) and len(split.hashes) > 0

    def work(start: int) -> None:
        here = _Found(contents_for(dataset))
        greys, rows = [], []
        for index in range(start, min(start + CHUNK, count)):
            try:
                example = split.source[index]
            except (DataError, OSError) as error:
                here.unreadable.append((split.name, index, str(error)))
                continue
            values = example["image"]
            split.readable[index] = True
            split.digests[index] = np.frombuffer(digest(values), np.uint8)
            here.shapes[values.shape] += 1
            here.dtypes[values.dtype.name] += 1
            here.contents.add(split.name, example)
            if len(split.hashes):
                greys.append(small_grey(values))
                rows.append(index)
            if counted:
                key = (values.dtype.name, values.shape[-1])
                here.counters.setdefault(key, counter_for(values)).add(values)
            if files:
                here.modes[_mode(split.source.describe(index))] += 1
        if greys:
            stacked = np.stack(greys).reshape(-1, SIDE, SIDE)
            split.hashes[rows], split.thumbs[rows] = hashes_of(stacked), thumbs_of(stacked)
        with lock:
            found.join(here)
            done[0] += min(CHUNK, count - start)
            progress(f"{split.name}: {done[0]:,} of {count:,} examples")

    in_threads(work, range(0, count, CHUNK), threads)


def _mode(path: str) -> str:
    try:
        return stored_mode(path)
    except OSError:
        return "unknown"


def _unreadable(splits: list[_Split], found: list[tuple[str, int, str]]) -> list[tuple[str, str, str]]:
    sources = {split.name: split.source for split in splits}
    order = {split.name: place for place, split in enumerate(splits)}
    ordered = sorted(found, key=lambda one: (order[one[0]], one[1]))
    return [(name, sources[name].describe(index), reason) for name, index, reason in ordered]


def _moments(
    counters: dict[tuple[str, int], PixelCounter | MomentCounter],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, if all inputs have the same dtype and number of channels."""
    if len(counters) != 1:
        return (), ()
    mean, variance = next(iter(counters.values())).moments()
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)


def _duplicates(
    splits: list[_Split], dataset: Dataset, near: int, likeness: float, images: bool
) -> tuple[list[Group], list[Group], int]:
    """Return the groups of equal inputs, and the pairs of nearly equal images: those across splits first.

    Third, the number of images that were not compared with all candidates.
    """
    of_split = np.concatenate([np.full(len(split.source), place) for place, split in enumerate(splits)])
    index = np.concatenate([np.arange(len(split.source)) for split in splits])
    readable = np.flatnonzero(np.concatenate([split.readable for split in splits]))
    digests = np.concatenate([split.digests for split in splits])[readable].view("V32")[:, 0]
    _, first, inverse, counts = np.unique(digests, return_index=True, return_inverse=True, return_counts=True)

    def group(members: np.ndarray, distance: int | None = None) -> Group:
        sources = [splits[of_split[row]].source for row in members]
        rows = [int(index[row]) for row in members]
        classes = ()
        if dataset.kind == "class":
            pairs = zip(sources, rows, strict=True)
            classes = tuple(dataset.class_names[int(source.labels[row])] for source, row in pairs)
        named = tuple(source.describe(row) for source, row in zip(sources, rows, strict=True))
        return Group(named, tuple(splits[of_split[row]].name for row in members), classes, distance)

    order = np.argsort(inverse, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])
    same = [group(readable[order[starts[one] : starts[one + 1]]]) for one in np.flatnonzero(counts > 1)]
    same.sort(key=lambda one: (not one.across, not one.conflict, one.examples))
    if not images or not len(readable):
        return same, [], 0
    kept = np.sort(first)  # one of each group of equal ones
    hashes = np.concatenate([split.hashes for split in splits])[readable][kept]
    thumbs = np.concatenate([split.thumbs for split in splits])[readable][kept]
    pairs, full = near_pairs(hashes, thumbs, near=near, least=likeness)
    distances = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    rows = readable[kept][pairs]
    found = [group(pair, int(distance)) for pair, distance in zip(rows, distances, strict=True)]
    return same, sorted(found, key=lambda pair: (not pair.across, pair.distance, pair.examples)), full
