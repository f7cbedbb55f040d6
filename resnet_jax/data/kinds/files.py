"""A file's bytes and text, its image, and the names in a folder; what goes wrong is said with the file's name."""

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
"""Read of an image to learn its size without decoding it."""


def read_bytes(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """Return what a file holds.

    Args:
        path: of the file.
        most: bytes that it may have; None for any number.

    Raises:
        DataError: it cannot be read, is empty or larger than that.
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
    """Return a text in UTF-8, with or without a byte order mark.

    Raises:
        DataError: as :func:`read_bytes`, or it is no such text.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: this is not text in UTF-8 (byte {error.start}); save it as UTF-8") from error


def folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones and those of operating systems.

    Raises:
        DataError: it cannot be read, or holds a link that leads nowhere.
    """
    return Lister(folder, Stamps()).folders(folder)


def read_image(path: str, channels: int, pixels: str) -> np.ndarray:
    """Return an image file decoded, (height, width, channels).

    Args:
        path: of the file.
        channels: 3 for RGB, 1 for grey; 0 for those that are stored, with ``pixels="stored"``.
        pixels: ``uint8``, or ``stored`` for what the file holds.

    Raises:
        DataError: it cannot be read or decoded.
    """
    data = read_bytes(path)
    if pixels == "stored":
        return decode_stored(data, channels, path)
    return decode_image(data, channels, path)


def image_sides(path: str) -> tuple[int, int]:
    """Return height and width of an image file; of the usual formats only the header is read.

    Raises:
        DataError: it cannot be read or decoded.
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
"""Files that a message names."""


def raise_together(errors: Sequence[DataError], files: int) -> None:
    """Raise what is wrong with some files as one error that names them; nothing if nothing is.

    Args:
        errors: one a file.
        files: of how many.

    Raises:
        DataError: with the first few, if there are any.
    """
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    more = f"; and {len(errors) - SHOWN:,} more" if len(errors) > SHOWN else ""
    raise DataError(f"{len(errors):,} of {files:,} files are broken: {'; '.join(map(str, errors[:SHOWN]))}{more}")


def wanted_channels(channels: int | None, pixels: str) -> int:
    """Return the channels that image files are decoded to: those asked for; else RGB, or what is stored.

    Raises:
        UsageError: such images cannot be had.
    """
    if pixels == "uint8":
        check_channels(channels)
    return channels or (3 if pixels == "uint8" else 0)


def images_by_stem(folder: Path) -> dict[str, str]:
    """Return name without suffix -> path of the image files that lie in a folder.

    Raises:
        DataError: the folder is not there or cannot be read, or two images have one name.
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
    """Say what a file is by its first bytes, for messages."""
    from resnet_jax.data.formats import HEAD_BYTES

    with open_file(path) as file:
        found = identify(file.read(HEAD_BYTES))
    return "a file of no known kind" if found is None else found.name
