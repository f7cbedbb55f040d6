"""``npy:PATH``: a folder of ``.npy`` files, which are what an .npz file holds: ``x.npy`` and ``y.npy``, and so on.

See :mod:`resnet_jax.data.npz` for what may be there. Large arrays are mapped from disk, not read: their pages are
loaded as they are used and may be dropped again, so that a set may be larger than memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnet_jax.data.npz import EXPECTED, load_arrays
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError

LEAST_MAPPED = 1 << 20
"""Bytes of a file from which on it is mapped."""


@register_source("npy", form="npy:PATH")
def load_npy(location: str, reading: Reading, /) -> Dataset:
    """Open the arrays of a folder.

    Raises:
        DataError: not there, not .npy files, holding Python objects, or other arrays than expected.
    """
    folder = Path(location).expanduser()
    if not folder.is_dir():
        what = "this is a file; name the folder it is in" if folder.exists() else "there is no such folder"
        raise DataError(f"{folder}: {what}; need .npy files called {EXPECTED}")
    arrays = {}
    for file in sorted(folder.glob("*.npy")):
        try:
            mode = "r" if file.stat().st_size >= LEAST_MAPPED else None
            arrays[file.stem] = np.load(file, mmap_mode=mode, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{file}: cannot read it as .npy ({error})") from error
    if not arrays:
        raise DataError(f"{folder}: no .npy files in it; need files called {EXPECTED}")
    name = f"npy:{location}"
    return load_arrays(arrays, name=name, channels=reading.channels, least_classes=reading.least_classes)
