"""The values that masks contain, counted once over all pixels and stored, so that classes are known before training.

The counts are stored in the cache directory under a fingerprint of the files' names, sizes and times, so that a second
start reads no masks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from resnet_jax.data.in_memory import in_threads
from resnet_jax.errors import DataError
from resnet_jax.runtime.cache import VARIABLE, cache_directory
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.plain_files import read_text
from resnet_jax.runtime.plain_json import load_json

VERSION = 1
CHUNK = 8
LARGEST = (1 << 16) - 1
"""Largest mask value that is counted: counts have room for all values up to it."""


@dataclass(frozen=True)
class ValueCount:
    """How often a value occurs.

    Attributes:
        pixels: number of pixels with the value.
        masks: number of masks that contain it.
        first: index of the first mask that does.
    """

    pixels: int
    masks: int
    first: int


def count_values(paths: Sequence[str], read: Callable[[str], np.ndarray], how: str) -> dict[int, ValueCount]:
    """Return value -> how often it occurs in these masks, in increasing order; from the cache if possible.

    Args:
        paths: paths of the masks.
        read: returns the values of a mask, non-negative integers (H, W).
        how: what else determines the result of ``read``, such as a table of colors.

    Raises:
        DataError: as raised by ``read``, or for values that cannot be classes.
    """
    keeps = os.environ.get(VARIABLE, "").lower() != "off"
    kept = cache_directory() / "masks" / f"{_fingerprint(paths, how)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        return {int(value): ValueCount(*counts) for value, counts in load_json(read_text(kept)).items()}
    per_mask: list[dict[int, int]] = [{} for _ in paths]

    def count(start: int) -> None:
        for index in range(start, min(start + CHUNK, len(paths))):
            values = read(paths[index])
            if values.min() < 0 or values.max() > LARGEST:
                raise DataError(
                    f"{paths[index]}: values {values.min():,} to {values.max():,}; masks hold classes from 0 on, "
                    f"at most {LARGEST:,}"
                )
            counts = np.bincount(values.ravel())
            per_mask[index] = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}

    in_threads(count, range(0, len(paths), CHUNK))
    found: dict[int, ValueCount] = {}
    for index, counts in enumerate(per_mask):
        for value, pixels in counts.items():
            old = found.get(value, ValueCount(0, 0, index))
            found[value] = ValueCount(old.pixels + pixels, old.masks + 1, old.first)
    found = dict(sorted(found.items()))
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        if not keeps:
            return found
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps({value: [c.pixels, c.masks, c.first] for value, c in found.items()}))
    return found


def _fingerprint(paths: Sequence[str], how: str) -> str:
    digest = hashlib.sha256(f"{VERSION}\n{how}\n".encode())
    for path in paths:
        found = os.stat(path)
        line = f"{os.path.abspath(path)}\0{found.st_size}\0{found.st_mtime_ns}\n"
        digest.update(line.encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:32]
