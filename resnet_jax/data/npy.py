"""``npy:PATH``: a folder of ``.npy`` files with the contents of an .npz file: ``x.npy`` and ``y.npy``, and so on.

See :mod:`resnet_jax.data.npz` for the arrays. Large arrays are memory-mapped, not read: their pages are loaded as they
are used and may be dropped again, so a data set may be larger than memory.
"""

from __future__ import annotations

import os
from pathlib import Path

from resnet_jax.data.npz import EXPECTED, load_arrays
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError
from resnet_jax.runtime.plain_files import open_file
from resnet_jax.runtime.plain_numpy import mapped_array, read_array

LEAST_MAPPED = 1 << 20
"""Size in bytes from which a file is memory-mapped."""


@register_source("npy", form="npy:PATH")
def load_npy(location: str, reading: Reading, /) -> Dataset:
    """Open the arrays of a folder.

    Raises:
        DataError: if it does not exist, has files other than .npy, Python objects, or unexpected arrays.
    """
    folder = Path(location).expanduser()
    if not folder.is_dir():
        what = "this is a file; name the folder it is in" if folder.exists() else "there is no such folder"
        raise DataError(f"{folder}: {what}; need .npy files called {EXPECTED}")
    arrays = {}
    for file in sorted(folder.glob("*.npy")):
        try:
            with open_file(file) as handle:
                size = os.fstat(handle.fileno()).st_size
                arrays[file.stem] = mapped_array(file) if size >= LEAST_MAPPED else read_array(handle)
        except (ValueError, OSError) as error:
            raise DataError(f"{file}: cannot read it as .npy ({error})") from error
    if not arrays:
        raise DataError(f"{folder}: no .npy files in it; need files called {EXPECTED}")
    name = f"npy:{location}"
    return load_arrays(arrays, name=name, channels=reading.channels, least_classes=reading.least_classes)
