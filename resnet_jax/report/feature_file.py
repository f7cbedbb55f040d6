"""A file of features: arrays of equal length in one ``.npz``, written as they come, so that memory does not grow."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.runtime.files import replacing


class FeatureFile:
    """Collects rows and writes them to ``path`` when the ``with`` block ends, whole or not at all.

    ==============  =================================================================
    array           what it is
    ==============  =================================================================
    ``features``    float32 (N, ...), a row for each image
    ``image``       str (N,), its file, or its index and source
    ``label``       int32 (N,), position in ``class_names``; -1 where it is not known
    ``split``       str (N,), of a data set: train, val, test or all
    ``class_names`` str (K,)
    ==============  =================================================================

    Rows lie in a temporary file beside ``path`` until then. ``np.load(path)`` reads it, without pickling.

    Args:
        path: the file; its name ends with ``.npz``.
        class_names: of the labels.

    Raises:
        UsageError: another suffix.
        OSError: it cannot be written, from here and from the methods.
    """

    def __init__(self, path: Path, class_names: tuple[str, ...] = ()):
        if path.suffix.lower() != ".npz":
            raise UsageError(f"{path}: features are written as .npz; give a name that ends so")
        self.path = path
        self._class_names = class_names
        self._rows: IO[bytes] = tempfile.TemporaryFile(dir=path.absolute().parent)  # noqa: SIM115 (__exit__ closes it)
        self._shape: tuple[int, ...] = ()
        self._columns: dict[str, list[Any]] = {"image": [], "label": [], "split": []}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``features`` so far."""
        return (len(self._columns["image"]), *self._shape)

    def add(self, values: np.ndarray, image: str, label: int, split: str) -> None:
        """Append a row; all have one shape."""
        self._shape = values.shape
        self._rows.write(np.ascontiguousarray(values, np.float32).tobytes())
        for name, value in (("image", image), ("label", label), ("split", split)):
            self._columns[name].append(value)

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the file, unless there is nothing to write or an error ended the block."""
        with self._rows:
            if kind is None and self.shape[0]:
                self._write()

    def _write(self) -> None:
        others = {
            "image": np.array([name.encode("utf-8", "backslashreplace").decode() for name in self._columns["image"]]),
            "label": np.array(self._columns["label"], np.int32),
            "split": np.array(self._columns["split"]),
            "class_names": np.array(self._class_names, str),
        }
        with replacing(self.path) as partial, zipfile.ZipFile(partial, "w") as file:
            with file.open("features.npy", "w", force_zip64=True) as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
                np.lib.format.write_array_header_2_0(member, header)
                self._rows.seek(0)
                shutil.copyfileobj(self._rows, member, 1 << 20)
            for name, array in others.items():
                with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
