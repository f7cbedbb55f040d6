"""Sources by the kind that is written before the colon: ours, and those that others register."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from resnet_jax.data.records import Dataset
from resnet_jax.runtime.registry import Registry


class Loader(Protocol):
    """Opens a data set of one kind."""

    def __call__(self, location: str, /, *, channels: int | None, least_classes: int, pixels: str) -> Dataset:
        """Open it.

        Args:
            location: what stands behind the colon; empty if nothing may stand there.
            channels: that the network takes; None for those that are stored.
            least_classes: 2 to train on, 1 to evaluate.
            pixels: ``uint8``, or ``stored`` to decode image files to what they hold.
        """
        ...


@dataclasses.dataclass(frozen=True)
class SourceKind:
    """One kind of source.

    Attributes:
        load: opens it.
        form: how it is written, for messages: ``folder:PATH``; without a colon nothing stands behind the kind.
    """

    load: Loader
    form: str


SOURCES: Registry[SourceKind] = Registry("source", words=True)

#: Our own kinds: where they are registered, imported when they are asked for, and how they are written.
_OURS = {
    "digits": ("digits", "digits"),
    "folder": ("folder", "folder:PATH"),
    "npz": ("npz", "npz:PATH"),
    "manifest": ("manifest", "manifest:PATH"),
    "tfds": ("tfds", "tfds:NAME or tfds:NAME@DATA_DIR"),
}


def register_source(kind: str, *, form: str | None = None) -> Callable[[Loader], Loader]:
    """Make a function the loader of the sources ``KIND:LOCATION``.

    Args:
        kind: letters, digits and underscores.
        form: how it is written, for messages; default ``KIND:LOCATION``. Equal to ``kind``: nothing stands behind it.

    Raises:
        UsageError: the kind is no such word, or another function has it.

    >>> from resnet_jax.data import load_arrays, load_dataset
    >>> @register_source("ramps")
    ... def load_ramps(location, *, channels, least_classes, pixels):
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
        SOURCES[kind] = SourceKind(load, form or f"{kind}:LOCATION")
        return load

    return register


def find_source(kind: str) -> SourceKind | None:
    """Return the kind of this name, or None."""
    if kind in _OURS and kind not in SOURCES:
        importlib.import_module(_module(kind))
    return SOURCES.get(kind)


def _module(kind: str) -> str:
    return f"resnet_jax.data.{_OURS[kind][0]}"


class _Forms(Mapping[str, str]):
    def __getitem__(self, kind: str) -> str:
        return SOURCES[kind].form if kind in SOURCES else _OURS[kind][1]

    def __iter__(self) -> Iterator[str]:
        return iter({**_OURS, **SOURCES})

    def __len__(self) -> int:
        return len({**_OURS, **SOURCES})


#: Every kind of source -> how it is written.
KINDS: Mapping[str, str] = _Forms()
