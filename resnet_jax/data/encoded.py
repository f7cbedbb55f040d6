"""Images as the bytes of their files: taken from a source without decoding, and decoded when read."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from resnet_jax.data.decode import NPY, decode_image, decode_npy, decode_stored
from resnet_jax.data.reading import Orientation, Pixels
from resnet_jax.data.records import Source, Subset
from resnet_jax.errors import DataError
from resnet_jax.runtime.plain_files import open_descriptor


@runtime_checkable
class EncodedSource(Source, Protocol):
    """A source of image files, which can return their bytes."""

    channels: int
    """1 or 3 channels to decode images to; 0 for the stored channels."""

    def encoded(self, index: int) -> bytes:
        """Return the bytes of image ``index``, as stored in its file."""
        ...


def encoder_of(records: Source) -> tuple[Callable[[int], bytes], int] | None:
    """Return a function for the bytes of the images of a source, and their channels; None if it has no image files.

    >>> from resnet_jax.data.digits import load_digits
    >>> encoder_of(load_digits().splits["all"]) is None
    True
    """
    if isinstance(records, Subset):
        found = encoder_of(records.records)
        if found is None:
            return None
        whole, channels = found
        return lambda index: whole(int(records.indices[index])), channels
    if isinstance(records, EncodedSource):
        return records.encoded, records.channels
    return None


def read_bytes(path: str) -> bytes:
    """Return the bytes of a file, with system calls, because Python's file objects take longer than a small image.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        descriptor, size = open_descriptor(path)
        try:
            data = os.read(descriptor, size)
            while len(data) < size and (more := os.read(descriptor, size - len(data))):
                data += more
            return data
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror})") from error


def decode_file(
    data: bytes, channels: int, where: str, pixels: Pixels = "uint8", orientation: Orientation = "stored"
) -> np.ndarray:
    """Decode the bytes of an image file or of an .npy file, like the files of a folder.

    Args:
        data: the whole file.
        channels: 1 or 3; 0 for the stored channels.
        where: where it comes from, for messages.
        pixels: uint8, or what is stored.
        orientation: whether the image is rotated upright according to its Exif data.

    Raises:
        DataError: if it cannot be decoded.
    """
    if data.startswith(NPY):
        return decode_npy(data, where)
    if pixels == "stored":
        return decode_stored(data, channels, where, orientation)
    return decode_image(data, channels, where, orientation)
