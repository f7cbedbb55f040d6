from __future__ import annotations

import math
import struct
import zlib

import cv2
import numpy as np
import pytest

from resnet_jax.data.decode import decode_image, decode_stored
from resnet_jax.data.orientation import upright
from resnet_jax.data.tiff import read_bands
from resnet_jax.errors import DataError

KINDS = {"u": 1, "i": 2, "f": 3}


def bands(count: int, dtype: str = "u1", seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 120, (37, 41, count))
    return (values * (257 if dtype == "u2" else 1)).astype(dtype)


def predicted(part: np.ndarray, predictor: int, order: str) -> bytes:
    """Return rows (h, w, bands) as a TIFF holds them: sample by sample, as differences, or as differences of bytes."""
    swapped = part.astype(part.dtype.newbyteorder(order))
    if predictor == 1:
        return swapped.tobytes()
    if predictor == 2:
        first = np.concatenate([part[:, :1], np.diff(part, axis=1)], axis=1)
        return first.astype(part.dtype.newbyteorder(order)).tobytes()
    rows, _, count = part.shape
    planes = np.moveaxis(part.astype(part.dtype.newbyteorder(">")).view(np.uint8).reshape(rows, -1, 4), -1, 1)
    bytes_of_rows = np.ascontiguousarray(planes).reshape(rows, -1, count)
    return np.concatenate([bytes_of_rows[:, :1], np.diff(bytes_of_rows, axis=1)], axis=1).tobytes()


def write_tiff(
    image: np.ndarray,
    *,
    order: str = "<",
    planar: int = 1,
    photometric: int = 1,
    extra: int = 0,
    deflate: bool = False,
    predictor: int = 1,
    rows: int = 10,
    tile: int = 0,
    orientation: int = 1,
) -> bytes:
    """Write a TIFF by the specification alone."""
    height, width, count = image.shape
    pieces = []
    for plane in [image] if planar == 1 else [image[..., [band]] for band in range(count)]:
        if tile:
            pad = ((0, -height % tile), (0, -width % tile), (0, 0))
            filled = np.pad(plane, pad, mode="edge")
            pieces += [
                filled[top : top + tile, left : left + tile]
                for top in range(0, height, tile)
                for left in range(0, width, tile)
            ]
        else:
            pieces += [plane[top : top + rows] for top in range(0, height, rows)]
    packed = [predicted(piece, predictor, order) for piece in pieces]
    packed = [zlib.compress(piece) for piece in packed] if deflate else packed
    sizes = [len(piece) for piece in packed]
    offsets = [8 + sum(sizes[:number]) for number in range(len(sizes))]
    colours = 3 if photometric == 2 else 1
    tags = {
        256: ("H", [width]),
        257: ("H", [height]),
        258: ("H", [image.dtype.itemsize * 8] * count),
        259: ("H", [8 if deflate else 1]),
        262: ("H", [photometric]),
        274: ("H", [orientation]),
        277: ("H", [count]),
        284: ("H", [planar]),
        317: ("H", [predictor]),
        339: ("H", [KINDS[image.dtype.kind]] * count),
    }
    if count > colours:
        tags[338] = ("H", [extra] * (count - colours))
    if tile:
        tags |= {322: ("H", [tile]), 323: ("H", [tile]), 324: ("I", offsets), 325: ("I", sizes)}
    else:
        tags |= {273: ("I", offsets), 278: ("H", [rows]), 279: ("I", sizes)}
    at = 8 + sum(sizes)
    values_at, directory, values = at + 2 + 12 * len(tags) + 4, b"", b""
    for tag, (code, numbers) in sorted(tags.items()):
        body = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        directory += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[code], len(numbers))
        if len(body) > 4:
            directory += struct.pack(f"{order}I", values_at + len(values))
            values += body
        else:
            directory += body.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at)
    return head + b"".join(packed) + struct.pack(f"{order}H", len(tags)) + directory + bytes(4) + values


@pytest.mark.parametrize("count", [2, 3, 5, 13])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "i2"])
@pytest.mark.parametrize(
    "options",
    [{}, {"order": ">"}, {"planar": 2}, {"tile": 16}, {"tile": 16, "planar": 2, "deflate": True}, {"deflate": True}],
)
def test_all_bands_are_read_as_they_are_stored(count, dtype, options):
    image = bands(count, dtype)
    found = decode_stored(write_tiff(image, **options), 0, "f")
    assert found.dtype == (np.int16 if dtype == "i2" else image.dtype)
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("dtype", "predictor"), [("u1", 2), ("u2", 2), ("f4", 3)])
@pytest.mark.parametrize("options", [{}, {"tile": 16}, {"planar": 2}])
def test_differences_are_summed_up(order, dtype, predictor, options):
    image = bands(5, dtype) / (7 if dtype == "f4" else 1)
    image = image.astype(dtype)
    data = write_tiff(image, order=order, predictor=predictor, deflate=True, **options)
    np.testing.assert_array_equal(read_bands(data, "f"), image)


@pytest.mark.parametrize("method", [5, 8, 32773])
def test_every_compression_that_the_decoder_knows(method):
    image = bands(6)
    grey = image.reshape(37, -1)
    data = bytearray(cv2.imencode(".tif", grey, [cv2.IMWRITE_TIFF_COMPRESSION, method, 317, 1])[1].tobytes())
    at = struct.unpack("<I", data[4:8])[0]
    for entry in range(struct.unpack("<H", data[at : at + 2])[0]):
        where = at + 2 + 12 * entry
        tag = struct.unpack("<H", data[where : where + 2])[0]
        if tag in (256, 277):  # the same bytes, said to be 6 bands
            data[where + 8 : where + 12] = struct.pack("<HH", {256: 41, 277: 6}[tag], 0)
    np.testing.assert_array_equal(read_bands(bytes(data), "f"), image)


def test_planes_of_sixteen_bits_are_colours():
    image = bands(3, "u2")
    data = write_tiff(image, planar=2, photometric=2)
    np.testing.assert_array_equal(decode_stored(data, 0, "f"), image)
    np.testing.assert_array_equal(decode_image(data, 3, "f"), image >> 8)


@pytest.mark.parametrize("value", range(1, 9))
def test_bands_are_turned_as_all_tiffs_are(value):
    image = bands(5)
    np.testing.assert_array_equal(
        decode_stored(write_tiff(image, orientation=value), 0, "f", "exif"), upright(image, value)
    )


def test_grey_with_alpha_is_grey_unless_something_shows_through():
    image = bands(2)
    image[..., 1] = 255
    for photometric in (0, 1):
        expected = 255 - image[..., 0] if photometric == 0 else image[..., 0]
        data = write_tiff(image, extra=2, photometric=photometric)
        np.testing.assert_array_equal(decode_image(data, 1, "f")[..., 0], expected)
        np.testing.assert_array_equal(decode_image(data, 3, "f")[..., 2], expected)
    image[3, 3, 1] = 9
    with pytest.raises(DataError, match="transparent pixels"):
        decode_image(write_tiff(image, extra=2), 1, "f")


@pytest.mark.parametrize(("count", "photometric"), [(2, 1), (3, 1), (4, 1), (5, 2), (8, 1)])
def test_bands_that_are_no_colours_do_not_become_eight_bit_images(count, photometric):
    with pytest.raises(DataError, match=rf"f: a TIFF of {count} bands that are no colours; data.pixels stored reads"):
        decode_image(write_tiff(bands(count), photometric=photometric), 3, "f")


def test_what_is_not_read_is_named():
    data = write_tiff(bands(5))
    broken = data.replace(struct.pack("<HHIHH", 259, 3, 1, 1, 0), struct.pack("<HHIHH", 259, 3, 1, 7, 0))
    with pytest.raises(DataError, match="a TIFF of 5 bands compressed by method 7, which is not read"):
        decode_stored(broken, 0, "f")
    with pytest.raises(DataError, match="predictor 2"):
        decode_stored(write_tiff(bands(5, "f4"), predictor=1).replace(*predictor_two()), 0, "f")
    many = write_tiff(bands(5)).replace(struct.pack("<HHIHH", 277, 3, 1, 5, 0), struct.pack("<HHIHH", 277, 3, 1, 6, 0))
    with pytest.raises(DataError, match="f: "):
        decode_stored(many, 0, "f")


def predictor_two() -> tuple[bytes, bytes]:
    return struct.pack("<HHIHH", 317, 3, 1, 1, 0), struct.pack("<HHIHH", 317, 3, 1, 2, 0)


@pytest.mark.parametrize("deflate", [False, True])
def test_cut_short_anywhere_it_is_refused(deflate):
    data = write_tiff(bands(5), deflate=deflate)
    for cut in [*range(0, len(data), max(1, math.ceil(len(data) / 60))), *range(len(data) - 9, len(data))]:
        with pytest.raises(DataError):
            decode_stored(data[:cut], 0, "f")


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        (277, 60_000, "pixels of 60,000 bands, more than the 1,365 MiB"),
        (322, 65_520, "more than the 1,365 MiB"),
    ],
)
def test_more_than_fits_in_memory_is_refused_by_its_header(tag, value, message):
    image = np.zeros((160, 160, 5), np.uint8)
    data = write_tiff(image, tile=16 if tag == 322 else 0)
    old = {277: 5, 322: 16}[tag]
    for name in (tag,) if tag == 277 else (322, 323):
        data = data.replace(struct.pack("<HHIHH", name, 3, 1, old, 0), struct.pack("<HHIHH", name, 3, 1, value, 0))
    with pytest.raises(DataError, match=message):
        decode_stored(data, 0, "f")
