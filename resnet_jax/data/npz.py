"""``npz:PATH``: arrays in one NumPy file.

Either ``x`` and ``y`` (one split, ``all``), or ``x_train``, ``y_train``, ``x_test``, ``y_test`` and if wanted
``x_val``, ``y_val``. Images are uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3); labels are integers 0..K-1. A
text array ``class_names`` may name the classes; otherwise they are "0" .. "K-1" with K from the largest label
of all splits.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from resnet_jax.data.decode import to_channels
from resnet_jax.data.records import ArrayRecords, Dataset
from resnet_jax.errors import DataError

EXPECTED = "x and y, or x_train, y_train, x_test, y_test (and x_val, y_val); class_names may be added"


def load_npz(path: str, channels: int | None = None) -> Dataset:
    """Read the arrays of the file into memory; see the module for what it may hold.

    Raises:
        DataError: not there, not an .npz file, holding Python objects, or other arrays than expected.
    """
    file = Path(path).expanduser()
    arrays = _read(file)
    if "x" in arrays or "y" in arrays:
        suffixes = {"all": ""}
    else:
        suffixes = {"train": "_train", "test": "_test"}
        if "x_val" in arrays or "y_val" in arrays:
            suffixes["val"] = "_val"
    splits = {}
    for split, suffix in suffixes.items():
        for key in (f"x{suffix}", f"y{suffix}"):
            if key not in arrays:
                raise DataError(f"{file}: no array {key!r}; found {', '.join(arrays) or 'none'}; need {EXPECTED}")
        records = ArrayRecords(arrays[f"x{suffix}"], arrays[f"y{suffix}"], name=f"x{suffix} of {file}")
        if channels is not None:
            records = ArrayRecords(to_channels(records.images, channels), records.labels, name=records.name)
        splits[split] = records
    if "class_names" in arrays:
        class_names = tuple(str(name) for name in arrays["class_names"].ravel())
    else:
        class_names = tuple(str(c) for c in range(max(int(r.labels.max()) for r in splits.values()) + 1))
    return Dataset(f"npz:{path}", splits, class_names)


def _read(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; need an .npz with {EXPECTED}")
    try:
        with file.open("rb") as handle:
            archive = np.load(handle, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is one array without a name, .npy")
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: cannot read it as .npz ({error}); need {EXPECTED}") from error
