"""The array of one volume file, (depth, height, width, channels): .npy, .npz, or NIfTI through nibabel.

NIfTI stores axes as x, y, z in any order and direction; here a volume is reoriented to the closest of the axes right,
anterior, superior (by flips and transpositions only, without resampling) and returned as z, y, x: ``volume[0]`` is the
lowest slice. A fourth axis is the channels. A scale and offset in the header are applied, in float32. The voxel spacing
is not read; volumes with different spacings are not made alike.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from resnet_jax.data.arrays import MOST_CHANNELS, on_devices
from resnet_jax.data.kinds.files import read_bytes
from resnet_jax.errors import DataError
from resnet_jax.runtime.distribution import install
from resnet_jax.runtime.limits import too_much_unpacked
from resnet_jax.runtime.plain_files import open_file
from resnet_jax.runtime.plain_numpy import read_either

NIFTI = (".nii", ".nii.gz")
ENDINGS = (".npy", ".npz", *NIFTI)


def read_volume(path: str) -> np.ndarray:
    """Return the volume of a file, (D, H, W, C), in a dtype that devices support.

    Raises:
        DataError: if it cannot be read, or does not contain a volume.
    """
    if path.lower().endswith(NIFTI):
        return _checked(_nifti(path), path)
    data = read_bytes(path)
    try:
        found = read_either(data)
        if not isinstance(found, np.ndarray):
            if len(found) != 1:
                raise DataError(f"{path}: holds {', '.join(found) or 'nothing'}; an .npz of a volume has one array")
            (found,) = found.values()
    except ValueError as error:
        raise DataError(f"{path}: cannot read it as a NumPy file ({error})") from error
    return _checked(found, path)


def _checked(values: np.ndarray, path: str) -> np.ndarray:
    """Return a volume with a channel axis, or reject anything else."""
    said = f"{path}: {values.dtype} {values.shape}"
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or 0 in values.shape:
        raise DataError(f"{said}; a volume is (depth, height, width) or (depth, height, width, channels)")
    if values.shape[-1] > MOST_CHANNELS:
        raise DataError(f"{said}; the last of four axes is the channels, of which there are up to {MOST_CHANNELS}")
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.dtype.kind not in "iuf":
        raise DataError(f"{said}; need numbers")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{said}; some values are NaN or infinite")
    try:
        return on_devices(values)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _nifti(path: str) -> np.ndarray:
    try:
        import nibabel  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            f"{path}: NIfTI is read by the package nibabel, which is not installed: {install('volumes')}; or save the "
            "volumes as .npy"
        ) from error
    library: Any = nibabel
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
        stored = library.load(path)  # its header
        voxels = math.prod(int(side) for side in stored.shape)
        if reason := too_much_unpacked(voxels * max(4, stored.get_data_dtype().itemsize), size):
            raise DataError(f"{path}: not read: {reason}")
        image = library.as_closest_canonical(stored)
        values = np.asanyarray(image.dataobj)
    except DataError:
        raise
    except Exception as error:  # a damaged header raises much, of the library's own kinds too
        raise DataError(f"{path}: cannot read it as NIfTI ({error})") from error
    if values.ndim not in (3, 4):
        raise DataError(f"{path}: {values.ndim} axes; a volume has three, or four with channels")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(np.moveaxis(values, (0, 1, 2), (2, 1, 0)))
