"""Sources by the kind before the colon: ours, and those that others register."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from resnet_jax.data.reading import Reading
from resnet_jax.data.records import Dataset
from resnet_jax.runtime.registry import Registry


class Loader(Protocol):
    """Opens a data set of one kind."""

    def __call__(self, location: str, reading: Reading, /) -> Dataset:
        """Open it.

        Args:
            location: the text after the colon; empty for kinds without a location.
            reading: reading options, such as channels.
        """
        ...


@dataclasses.dataclass(frozen=True)
class SourceKind:
    """One kind of source.

    Attributes:
        load: opens it.
        form: its syntax, for messages: ``folder:PATH``; without a colon, the kind has no location.
        uses: those of :data:`resnet_jax.data.reading.OPTIONAL` that it uses.
    """

    load: Loader
    form: str
    uses: tuple[str, ...] = ()


SOURCES: Registry[SourceKind] = Registry("source", words=True)

#: Our own kinds: the module that registers them, imported on demand, and their syntax.
_OURS = {
    "digits": ("digits", "digits"),
    "digits_segmentation": ("kinds.digits_segmentation", "digits_segmentation"),
    "digits_3d": ("kinds.digits_3d", "digits_3d"),
    "digits_detection": ("kinds.digits_detection", "digits_detection"),
    "folder": ("folder", "folder:PATH"),
    "npz": ("npz", "npz:PATH"),
    "npy": ("npy", "npy:PATH"),
    "cifar": ("cifar", "cifar:PATH or cifar:PATH@coarse"),
    "mnist": ("mnist", "mnist:PATH or mnist:PATH@PREFIX"),
    "manifest": ("manifest", "manifest:PATH"),
    "array_record": ("array_record", "array_record:PATH"),
    "tfds": ("tfds", "tfds:NAME or tfds:NAME@DATA_DIR"),
    "digits_tasks": ("kinds.digits_tasks", "digits_tasks"),
    "digits_series": ("kinds.digits_series", "digits_series"),
    "ucr": ("kinds.ucr", "ucr:PATH"),
    "text": ("kinds.text", "text:PATH"),
    "wav": ("kinds.wav", "wav:PATH"),
    "volumes": ("kinds.volumes", "volumes:PATH"),
    "masks": ("kinds.masks", "masks:PATH"),
    "voc": ("kinds.voc", "voc:PATH"),
    "voc_segmentation": ("kinds.voc_segmentation", "voc_segmentation:PATH"),
    "pairs": ("kinds.pairs", "pairs:LEFT+RIGHT or pairs:LEFT+RIGHT@SEED"),
    "digits_pairs": ("kinds.digits_pairs", "digits_pairs"),
    "coco": ("kinds.coco", "coco:PATH or coco:FILE.json@IMAGE_FOLDER"),
}


def register_source(kind: str, *, form: str | None = None, uses: tuple[str, ...] = ()) -> Callable[[Loader], Loader]:
    """Register a function as the loader of the sources ``KIND:LOCATION``.

    Args:
        kind: letters, digits and underscores.
        form: its syntax, for messages; default ``KIND:LOCATION``. Equal to ``kind``: there is no location.
        uses: fields of ``Reading`` that not all sources use but this one does, such as ``orientation``.

    Raises:
        UsageError: if the kind is not such a word, or another function has it.

    >>> from resnet_jax.data import load_arrays, load_dataset
    >>> @register_source("ramps")
    ... def load_ramps(location, reading):
    ...     import numpy as np
    ...     ramps = np.arange(8, dtype=np.uint8)[:, None, None] * np.ones((4, 4), np.uint8)
    ...     return load_arrays((ramps, np.arange(8) % int(location)), name=f"ramps:{location}")
    >>> len(load_dataset("ramps:2").splits["all"])
    8
    """

    def register(load: Loader) -> Loader:
        if kind in _OURS and kind not in SOURCES and getattr(load, "__module__", "") != _module(kind):
            importlib.import_module(_module(kind))  # which takes the name
        if kind in SOURCES:
            SOURCES.replace_same(kind, load, SOURCES[kind].load)
        SOURCES[kind] = SourceKind(load, form or f"{kind}:LOCATION", uses)
        return load

    return register


def find_source(kind: str) -> SourceKind | None:
    """Return the kind with this name, or None."""
    if kind in _OURS and kind not in SOURCES:
        importlib.import_module(_module(kind))
    return SOURCES.get(kind)


def source_forms() -> str:
    """Return the syntax of every kind of source, in a list.

    >>> source_forms().startswith("digits, digits_")
    True
    """
    return ", ".join(KINDS.values())


def users_of(name: str) -> list[str]:
    """Return the kinds of sources that use a field of ``Reading`` that not all do."""
    for kind in _OURS:
        find_source(kind)
    return [kind for kind in KINDS if name in SOURCES[kind].uses]


def _module(kind: str) -> str:
    return f"resnet_jax.data.{_OURS[kind][0]}"


class _Forms(Mapping[str, str]):
    def __getitem__(self, kind: str) -> str:
        return SOURCES[kind].form if kind in SOURCES else _OURS[kind][1]

    def __iter__(self) -> Iterator[str]:
        return iter({**_OURS, **SOURCES})

    def __len__(self) -> int:
        return len({**_OURS, **SOURCES})


#: Every kind of source -> its syntax.
KINDS: Mapping[str, str] = _Forms()
