"""Compute the statistics that drift detection compares, for a reference, a folder that grows, or a server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.named import NamedImages
from resnet_jax.deploy.drift import FILE, LEAST, Distance, Reference, Seen, input_statistics
from resnet_jax.deploy.serve.engine import Engine, RunEngine
from resnet_jax.deploy.serve.options import Limits
from resnet_jax.deploy.serve.problems import Problem
from resnet_jax.errors import DataError, UsageError
from resnet_jax.runs.features import find_images

Named = Iterable[tuple[str, Any]]
"""A name with the bytes of a file, the pixels of an image, or a DataError."""


def reference_path(path: Path) -> Path:
    """Return the path of the reference of a run directory or an exported file."""
    return path.with_name(path.name + ".drift.npz") if path.is_file() else path / FILE


def seen_of(engine: Engine, found: Any, images: np.ndarray) -> Seen:
    """Return the statistics to compare, from what an engine computed for images (N, H, W, C)."""
    if isinstance(engine, RunEngine) and engine.watched:
        outputs, features = found["outputs"], found["pooled"]
    else:
        outputs, features = found, found
    if not isinstance(features, np.ndarray):
        raise UsageError("outputs of several arrays are not compared: watch the run, which has pooled features")
    features = features.reshape(len(images), -1)
    one_of = isinstance(outputs, np.ndarray) and outputs.ndim == 2 and outputs.shape[1] == len(engine.classes)
    classes = np.asarray(outputs).argmax(axis=1) if one_of and outputs.shape[1] > 1 else np.zeros(len(images), np.int64)
    return Seen(features, input_statistics(images), classes)


def look(engine: Engine, images: Named, limits: Limits, bad: Callable[[str, str], None]) -> Iterator[Seen]:
    """Yield the statistics of images, one batch at a time.

    Args:
        engine: computes the outputs.
        images: names, with bytes or pixels.
        limits: limits on the number of pixels.
        bad: called with the name of each unreadable image, and the reason.
    """
    ready: list[np.ndarray] = []
    for name, image in images:
        try:
            if isinstance(image, DataError):
                raise image
            taken = engine.read(image, limits.pixels) if isinstance(image, bytes) else engine.take(image)
            ready.append(taken.pixels)
        except (Problem, DataError) as error:
            bad(name, str(error))
        if len(ready) == engine.sizes[-1]:
            yield _computed(engine, ready)
            ready = []
    if ready:
        yield _computed(engine, ready)


def _computed(engine: Engine, ready: list[np.ndarray]) -> Seen:
    images = np.stack(ready)
    return seen_of(engine, engine.compute(images), images)


def named_files(paths: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield the files with the given names, and their bytes."""
    for path in paths:
        try:
            yield path, Path(path).read_bytes()
        except OSError as error:
            yield path, DataError(error.strerror or str(error))


def source_images(engine: Engine, source: str | None, most: int, seed: int = 0) -> tuple[Named, str]:
    """Return at most ``most`` randomly chosen images of a source, and a description of them.

    Args:
        engine: the engine of a run if the source is None or a data source.
        source: None for the run's own validation images, or its training images if it has none; a data source
            (npz:PATH, ...), of which the first existing split of val, test, all and train is used; otherwise files and
            folders.
        most: maximum number of images.
        seed: seed of the choice.

    Raises:
        UsageError: there are no such images.
    """
    rng = np.random.default_rng(seed)
    described = find_images(engine.trained, source) if isinstance(engine, RunEngine) else None
    if described is None:
        if source is None:
            raise UsageError("name the images of the reference: --reference FOLDER or SOURCE")
        named = NamedImages([source])
        paths = list(named)
        for name, why in named.problems:
            raise UsageError(f"{name}: {why}")
        chosen = paths if len(paths) <= most else [paths[n] for n in np.sort(rng.choice(len(paths), most, False))]
        return named_files(chosen), f"{len(chosen):,} of {len(paths):,} images of {source}"
    split = next(name for name in ("val", "test", "all", "train") if name in described.splits)
    if source is None and split == "test":
        split = "train" if "train" in described.splits else "test"
    records = described.splits[split]
    count = len(records)
    order = np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))

    def images() -> Iterator[tuple[str, Any]]:
        for index in order.tolist():
            try:
                yield records.describe(index), records[index]["image"]
            except DataError as error:
                yield records.describe(index), error

    said = f"{len(order):,} of {count:,} {split} images of {source or 'the run'}"
    if split == "train":
        said += " (it was trained on them, and knows them better than others: a validation split is better)"
    return images(), said


class Windows:
    """Consecutive windows of images, each compared when it is full.

    Args:
        reference: the reference to compare with.
        size: images per window.
        on_distance: called with the distance of each window.
    """

    def __init__(self, reference: Reference, size: int, on_distance: Callable[[Distance], None]):
        if size < LEAST:
            raise UsageError(f"a window has {LEAST} or more images, got {size}")
        self._reference, self._size, self._on_distance = reference, size, on_distance
        self._parts: list[Seen] = []

    @property
    def waiting(self) -> int:
        """Images in the window that is not full yet."""
        return sum(map(len, self._parts))

    def add(self, seen: Seen) -> None:
        """Add images."""
        self._parts.append(seen)
        while self.waiting >= self._size:
            together = Seen.together(self._parts)
            self._parts = [together.part(slice(self._size, None))]
            self._on_distance(self._reference.distance(together.part(slice(self._size))))

    def finish(self) -> int:
        """Compare the last window if it is large enough; return how many images were left out."""
        count = self.waiting
        if count < LEAST:
            self._parts = []
            return count
        together, self._parts = Seen.together(self._parts), []
        self._on_distance(self._reference.distance(together))
        return 0


class Folder:
    """New files of a folder. Each is returned once, when its size stops changing between two looks.

    Args:
        path: the folder.
    """

    def __init__(self, path: str):
        self._path = path
        self._sizes: dict[str, tuple[int, int]] = {}
        self._done: set[str] = set()

    def new(self) -> list[str]:
        """Return the new files in the order of their names; files that are still being written are returned later."""
        found, ready = {}, []
        for path in NamedImages([self._path]):
            if path in self._done:
                continue
            try:
                state = os.stat(path)
            except OSError:
                continue
            found[path] = state.st_size, state.st_mtime_ns
            settled = time.time() - state.st_mtime > 1.0
            if settled or self._sizes.get(path) == found[path]:
                ready.append(path)
        self._done.update(ready)
        self._sizes = {path: size for path, size in found.items() if path not in self._done}
        return ready
