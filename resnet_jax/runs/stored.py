"""The small JSON files of a run directory, which somebody may have cut, edited or made to harm: believed whole or not
at all.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from resnet_jax.errors import DamagedError, RunError
from resnet_jax.runtime.plain_files import read_text
from resnet_jax.runtime.plain_json import load_json

T = TypeVar("T")
MOST_SIDE = 1 << 20
"""Pixels, samples or voxels along one side of an input."""


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        RunError: it cannot be read.
        DamagedError: it is no whole JSON object.
    """
    try:
        found = load_json(read_text(path))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: it is no whole JSON ({error}); restore it from a copy") from error
    if not isinstance(found, dict):
        raise DamagedError(
            f"{path} is damaged: it holds a {type(found).__name__} and no object; restore it from a copy"
        )
    return found


def typed(kind: type[T], fields: dict[str, Any], where: Path) -> T:
    """Return a dataclass of what a file holds, each field of its type.

    Raises:
        DamagedError: a field is missing, unknown or of another type; it says which.
    """
    from pydantic import TypeAdapter, ValidationError

    known = [field.name for field in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    unknown = [name for name in fields if name not in known]
    if unknown:
        raise DamagedError(
            f"{where} is damaged, or of a later version of resnet_jax: {unknown[0]!r:.100} is none of its fields"
        )
    try:
        return TypeAdapter(kind).validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DamagedError(f"{where} is damaged: {key:.100}: {first['msg']}; restore it from a copy") from error
