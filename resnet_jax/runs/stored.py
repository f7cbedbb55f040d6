"""The small JSON files of a run directory, which somebody may have cut, edited or made to harm: believed whole or not
at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resnet_jax.errors import DamagedError, RunError
from resnet_jax.runtime.plain_files import read_text
from resnet_jax.runtime.plain_json import load_json


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
