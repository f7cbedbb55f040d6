"""A file's bytes and text, its image, and the names in a folder; errors contain the file's name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnet_jax.data.decode import check_channels, decode_image, decode_stored
from resnet_jax.data.formats import identify
from resnet_jax.data.headers import shape_in_header
from resnet_jax.data.index import Stamps
from resnet_jax.data.listing import Lister
from resnet_jax.errors import DataError
from resnet_jax.runtime.plain_files import open_file

HEADER_BYTES = 1 << 16
"""Number of bytes of an image that are read to determine its size without decoding it."""


def read_bytes(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """Return the contents of a file.

    Args:
        path: path of the file.
        most: maximum size in bytes; None for any.

    Raises:
        DataError: if it cannot be read, is empty or larger than that.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if most is not None and size > most:
                raise DataError(f"{path}: {size:,} bytes; a file of this kind has at most {most:,}")
            data = file.read(size)
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror or error})") from error
    if not data:
        raise DataError(f"{path}: the file is empty (0 bytes); restore it or remove it")
    return data


def read_text(path: str | os.PathLike[str], most: int | None = None) -> str:
    """Return a UTF-8 text, with or without a byte order mark.

    Raises:
        DataError: as for :func:`read_bytes`, or if it is not such a text.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: this is not text in UTF-8 (byte {error.start}); save it as UTF-8") from error


def folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones and those of operating systems.

    Raises:
        DataError: if it cannot be read, or contains a broken link.
    """
    return Lister(folder, Stamps()).folders(folder)


def read_image(path: str, channels: int, pixels: str) -> np.ndarray:
    """Return an image file decoded, (height, width, channels).

    Args:
        path: path of the file.
        channels: 3 for RGB, 1 for gray; 0 for the stored channels, with ``pixels="stored"``.
        pixels: ``uint8``, or ``stored`` for the contents of the file.

    Raises:
        DataError: if it cannot be read or decoded.
    """
    data = read_bytes(path)
    if pixels == "stored":
        return decode_stored(data, channels, path)
    return decode_image(data, channels, path)


def image_sides(path: str) -> tuple[int, int]:
    """Return height and width of an image file; for the usual formats only the header is read.

    Raises:
        DataError: if it cannot be read or decoded.
    """
    try:
        with open_file(path) as file:
            sides = shape_in_header(file.read(HEADER_BYTES))
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror or error})") from error
    if sides is None or min(sides) < 1:
        sides = read_image(path, 1, "uint8").shape[:2]
    return int(sides[0]), int(sides[1])


SHOWN = 6
"""Number of files that a message names."""


def raise_together(errors: Sequence[DataError], files: int) -> None:
    """Raise one error that names all faulty files; nothing if there are none.

    Args:
        errors: one per file.
        files: total number of files.

    Raises:
        DataError: if there are any errors; it contains the first few.
    """
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    more = f"; and {len(errors) - SHOWN:,} more" if len(errors) > SHOWN else ""
    raise DataError(f"{len(errors):,} of {files:,} files are broken: {'; '.join(map(str, errors[:SHOWN]))}{more}")


def wanted_channels(channels: int | None, pixels: str) -> int:
    """Return the channels to decode image files to: the requested ones; otherwise RGB, or the stored channels.

    Raises:
        UsageError: if such images are not available.
    """
    if pixels == "uint8":
        check_channels(channels)
    return channels or (3 if pixels == "uint8" else 0)


def images_by_stem(folder: Path) -> dict[str, str]:
    """Return name without suffix -> path of the image files in a folder.

    Raises:
        DataError: if the folder does not exist or cannot be read, or two images have the same name.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; images are looked for there")
    found: dict[str, str] = {}
    for path in Lister(folder, Stamps()).files(folder)[0]:
        stem = os.path.splitext(os.path.basename(path))[0]
        if stem in found:
            raise DataError(f"{found[stem]} and {path}: two images of one name; keep one of them")
        found[stem] = path
    return found


def beginning_of(path: str | os.PathLike[str]) -> str:
    """Describe what a file is from its first bytes, for messages."""
    from resnet_jax.data.formats import HEAD_BYTES

    with open_file(path) as file:
        found = identify(file.read(HEAD_BYTES))
    return "a file of no known kind" if found is None else found.name
