"""Results as files: a frozen dataclass of arrays and numbers is one ``.npz``."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, TypeVar

import numpy as np

from resnet_jax.errors import UsageError

T = TypeVar("T")


def save_arrays(result: Any, path: str | os.PathLike[str]) -> None:
    """Write every field of a dataclass of arrays, numbers and names."""
    names = [field.name for field in dataclasses.fields(result)]
    arrays: dict[str, Any] = {name: np.asarray(getattr(result, name)) for name in names}
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def load_arrays(kind: type[T], path: str | os.PathLike[str]) -> T:
    """Read what :func:`save_arrays` wrote: arrays as they are, numbers as numbers, names as a tuple.

    Raises:
        UsageError: a field is missing.
    """
    with np.load(path) as arrays:
        wanted = [field.name for field in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
        missing = [name for name in wanted if name not in arrays]
        if missing:
            raise UsageError(f"{path} has no {', '.join(missing)}: it is no {kind.__name__}")
        return kind(**{name: _plain(arrays[name]) for name in wanted})


def _plain(array: np.ndarray) -> Any:
    if array.ndim == 0:
        return array.item()
    return tuple(array.tolist()) if array.dtype.kind == "U" else array
