from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from resnet_jax.data.decode import decode_image, decode_stored
from resnet_jax.data.orientation import orientation_of, upright

RGB = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)


def exif(value: int, order: str = "<") -> bytes:
    """Return Exif data with one tag, the orientation."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHIHH", 274, 3, 1, value, 0)
    return start + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


def jpeg(value: int, order: str = "<", before: bytes = b"") -> bytes:
    data, body = cv2.imencode(".jpg", RGB[..., ::-1])[1].tobytes(), b"Exif\0\0" + exif(value, order)
    return data[:2] + before + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def png(value: int, order: str = "<") -> bytes:
    data, body = cv2.imencode(".png", RGB[..., ::-1])[1].tobytes(), exif(value, order)
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    return data[:33] + chunk + data[33:]


def webp(value: int, order: str = "<") -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "WEBP", lossless=True, exif=exif(value, order))
    return file.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("write", [png, webp, jpeg])
def test_images_are_turned_as_pillow_turns_them(write, value, order):
    data = write(value, order)
    with Image.open(io.BytesIO(data)) as opened:
        stored = np.asarray(opened.convert("RGB"))
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert orientation_of(data) == value
    np.testing.assert_array_equal(upright(stored, value), expected)
    found = decode_image(data, 3, "f", "exif")
    assert found.shape == expected.shape
    assert found.flags.c_contiguous
    if write is jpeg:  # two decoders of JPEG may differ by a level
        assert np.abs(found.astype(int) - expected).max() <= 2
    else:
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(decode_stored(data, 0, "f", "exif"), expected)
        np.testing.assert_array_equal(decode_stored(data, 0, "f"), RGB)
    np.testing.assert_array_equal(decode_image(data, 3, "f"), upright(decode_image(write(1), 3, "f"), 1))


@pytest.mark.parametrize("value", range(1, 9))
def test_a_tiff_is_turned_by_its_decoder_once(value):
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "TIFF", tiffinfo={274: value})
    for orientation in ("stored", "exif"):
        np.testing.assert_array_equal(decode_image(file.getvalue(), 3, "f", orientation), upright(RGB, value))


def test_numbers_that_are_none_and_damaged_data_turn_nothing():
    for data in (jpeg(0), jpeg(9), png(3)[:40], b"", b"\xff\xd8\xff\xe1\0", cv2.imencode(".bmp", RGB)[1].tobytes()):
        assert orientation_of(data) == 1
    broken = jpeg(6).replace(b"II*\0\x08\0\0\0", b"II*\0\xff\xff\xff\x7f")
    assert orientation_of(broken) == 1
    assert decode_image(broken, 3, "f", "exif").shape == RGB.shape


def test_other_segments_may_stand_before_the_exif_data():
    other = b"\xff\xe1" + struct.pack(">H", 12) + b"http://xx\0" + b"\xff\xe0" + struct.pack(">H", 4) + b"\xff\xd9"
    assert orientation_of(jpeg(6, before=other)) == 6
    assert decode_image(jpeg(6, before=other), 3, "f", "exif").shape == (5, 7, 3)
