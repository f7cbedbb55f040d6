"""Results as files: a frozen dataclass of arrays, numbers, names and facts is one ``.npz`` file."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, TypeVar

import numpy as np

from resnet_jax.errors import DataError, UsageError
from resnet_jax.runtime.paths import user_path
from resnet_jax.runtime.plain_files import open_file
from resnet_jax.runtime.plain_json import load_json
from resnet_jax.runtime.plain_numpy import read_arrays

T = TypeVar("T")


#: A field with this name is a dictionary of plain values, stored as JSON text.
_FACTS = "about"


def save_arrays(result: Any, path: str | os.PathLike[str], **more: np.ndarray) -> None:
    """Write all fields of a dataclass (arrays, numbers, names and ``about``), and further arrays for other readers."""
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if _FACTS in values:
        values[_FACTS] = json.dumps(values[_FACTS])
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in {**more, **values}.items()}
    with user_path(path).open("wb") as file:
        np.savez(file, **arrays)


def load_arrays(kind: type[T], path: str | os.PathLike[str]) -> T:
    """Read the result of :func:`save_arrays`: arrays unchanged, numbers as numbers, names as a tuple.

    Raises:
        UsageError: a field is missing, so the file contains something else.
        DataError: it cannot be read, or is damaged.
    """
    arrays = open_arrays(path)
    wanted = [field.name for field in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise UsageError(f"{path} is no {kind.__name__}: it has no {', '.join(missing)}")
    values = {name: _plain(arrays[name]) for name in wanted}
    if _FACTS in values:
        try:
            values[_FACTS] = load_json(values[_FACTS])
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: what it says of itself is damaged ({error})") from error
    return kind(**values)


def open_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of a NumPy archive.

    Raises:
        DataError: it cannot be read, is not an archive, or is damaged.
    """
    try:
        with open_file(user_path(path)) as file:
            return read_arrays(file)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot read it as a NumPy archive ({said})") from error


def _plain(array: np.ndarray) -> Any:
    if array.ndim == 0:
        return array.item()
    return tuple(array.tolist()) if array.dtype.kind == "U" else array
