"""Results as files: a frozen dataclass of arrays, numbers, names and facts is one ``.npz``."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, TypeVar

import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.runtime.paths import user_path

T = TypeVar("T")


#: A field of this name is a dictionary of plain values, kept as JSON text.
_FACTS = "about"


def save_arrays(result: Any, path: str | os.PathLike[str], **more: np.ndarray) -> None:
    """Write every field of a dataclass of arrays, numbers, names and ``about``, and more arrays for other readers."""
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if _FACTS in values:
        values[_FACTS] = json.dumps(values[_FACTS])
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in {**more, **values}.items()}
    with user_path(path).open("wb") as file:
        np.savez(file, **arrays)


def load_arrays(kind: type[T], path: str | os.PathLike[str]) -> T:
    """Read what :func:`save_arrays` wrote: arrays as they are, numbers as numbers, names as a tuple.

    Raises:
        UsageError: a field is missing: the file holds something else.
    """
    with np.load(user_path(path)) as arrays:
        wanted = [field.name for field in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
        missing = [name for name in wanted if name not in arrays]
        if missing:
            raise UsageError(f"{path} is no {kind.__name__}: it has no {', '.join(missing)}")
        values = {name: _plain(arrays[name]) for name in wanted}
    if _FACTS in values:
        values[_FACTS] = json.loads(values[_FACTS])
    return kind(**values)


def _plain(array: np.ndarray) -> Any:
    if array.ndim == 0:
        return array.item()
    return tuple(array.tolist()) if array.dtype.kind == "U" else array
