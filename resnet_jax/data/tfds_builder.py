"""The builder of a TensorFlow Datasets set by name, and what to do about a set that is not prepared."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_jax.errors import DataError, nearest
from resnet_jax.runtime.distribution import install

INSTALL = install("tf")
"""How to install TensorFlow, for sets whose own code needs it."""


def find_builder(name: str, data_dir: str | None) -> Any:
    """Return TFDS's builder of a set, prepared or not.

    Args:
        name: its name in TFDS: ``mnist``, ``imagenette/160px-v2``, ``cifar10:3.0.2``.
        data_dir: where sets are stored, or None for TFDS's default.

    Raises:
        DataError: if there is no such set, configuration or version, or its code needs TensorFlow.
    """
    import tensorflow_datasets as tfds

    if re.match(r"[^/:]+:[A-Za-z_]", name):  # not NAME:1.0.0
        raise DataError(
            f"tfds:{name}: a set of another namespace, {name.partition(':')[0]!r}, whose code TFDS would fetch and "
            "run; prepare it with TFDS itself, and name the set and the folder it is in: tfds:NAME@DATA_DIR"
        )
    where = data_dir or "the default folder of TFDS (TFDS_DATA_DIR)"
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()), _known_features():
            return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        close = nearest(name, tfds.list_builders(with_community_datasets=False))
        hint = f"; did you mean {close!r}?" if close else ""
        raise DataError(f"tfds:{name}: no built-in set has this name and {where} holds none{hint}") from error
    except ImportError as error:
        raise DataError(
            f"tfds:{name}: the code of this set needs {missing_module(error)}, which is not installed; {INSTALL}"
        ) from error
    except (ValueError, AssertionError, OSError, *_FAULTS) as error:  # no name, configuration or version, or damaged
        raise DataError(f"tfds:{name}: {str(error).strip()}") from error


#: Exceptions that TFDS raises about damaged files of its own.
_FAULTS = (KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError)


@contextlib.contextmanager
def _known_features() -> Iterator[None]:
    """Let the ``features.json`` of a prepared set name only TFDS's own kinds of features, not modules to import.

    TFDS imports any module named there, which runs its code.
    """
    from tensorflow_datasets.core.features import feature

    base: Any = feature.FeatureConnector
    theirs = base.__dict__["cls_from_name"]

    def cls_from_name(cls: Any, name: str) -> Any:
        if name not in cls._registered_features and not str(name).startswith("tensorflow_datasets."):
            raise ValueError(f"features.json names a kind of feature that is none of TFDS's: {name!r}")
        return theirs.__func__(cls, name)

    base.cls_from_name = classmethod(cls_from_name)
    try:
        yield
    finally:
        base.cls_from_name = theirs


def missing_module(error: ImportError) -> str:
    """Return the name of what could not be imported, in its usual spelling.

    >>> missing_module(ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow"))
    'TensorFlow'
    """
    found = re.search(r"No module named '([^']+)'", str(error))
    name = (error.name or (found[1] if found else str(error))).partition(".")[0]
    return "TensorFlow" if name == "tensorflow" else name


def prepared_where(builder: Any, name: str, data_dir: str | None) -> str:
    """Return where an unprepared set is looked for, what is there, and how to prepare it."""
    where = data_dir or "the default folder of TFDS (TFDS_DATA_DIR)"
    folder = f" --data-dir {data_dir}" if data_dir else ""
    said = f"{where}; prepare it once with\n  resnet-jax data prepare {name}{folder}"
    remains = left_behind(builder)
    return f"{said}\n(a preparation was interrupted: {remains[0]} can be removed)" if remains else said


def left_behind(builder: Any) -> list[Path]:
    """Return the folders left by a killed preparation of this set, or being written by one in progress."""
    version = Path(builder.data_dir)
    return sorted(version.parent.glob(f"incomplete.*_{version.name}")) if version.parent.is_dir() else []
