from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from resnet_jax.data.decode import check_channels, decode_image, to_channels
from resnet_jax.errors import DataError, UsageError

RGB = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)


def png(image: np.ndarray) -> bytes:
    """Encode uint8 RGB (h, w, 3) or grey (h, w, 1) without loss."""
    return cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp"])
def test_lossless_formats_give_rgb_exactly(suffix):
    data = cv2.imencode(suffix, RGB[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    np.testing.assert_array_equal(decode_image(data, 3, "f"), RGB)


def test_grey_and_rgb_convert_into_each_other():
    grey = decode_image(png(RGB), 1, "f")
    assert grey.shape == (7, 5, 1)
    assert np.abs(grey.astype(int) - to_channels(RGB, 1)).max() <= 1  # the decoder's own rounding of luma
    np.testing.assert_array_equal(decode_image(png(grey), 3, "f"), np.repeat(grey, 3, -1))


def test_exif_orientation_is_not_applied():
    jpeg = cv2.imencode(".jpg", RGB)[1].tobytes()
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)  # orientation 6: turn by 90 degrees
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (5, 7, 3)
    np.testing.assert_array_equal(decode_image(turned, 3, "f"), decode_image(jpeg, 3, "f"))


def test_sixteen_bits_and_alpha_become_eight_bit_rgb():
    deep = cv2.imencode(".png", RGB[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(decode_image(deep, 3, "f"), RGB)
    alpha = np.dstack([RGB[..., ::-1], np.full((7, 5), 9, np.uint8)])
    np.testing.assert_array_equal(decode_image(cv2.imencode(".png", alpha)[1].tobytes(), 3, "f"), RGB)


JPEG = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize("data", [b"", b"not an image", png(RGB)[:60], JPEG[: len(JPEG) // 2], JPEG[:-20]])
def test_what_cannot_be_decoded_is_named(data):
    with pytest.raises(DataError, match=rf"here\.jpg: cannot decode these {len(data)} bytes; need a whole JPEG"):
        decode_image(data, 3, "here.jpg")


def test_luma_is_bt601_rounded():
    expected = np.floor(RGB @ np.array([0.299, 0.587, 0.114]) + 0.5 + 1e-9)
    np.testing.assert_array_equal(to_channels(RGB, 1)[..., 0], expected)
    white = np.full((1, 1, 3), 255, np.uint8)
    assert to_channels(white, 1).item() == 255
    assert to_channels(RGB, None) is RGB
    assert to_channels(RGB, 3) is RGB


def test_check_channels():
    for channels in (None, 1, 3):
        check_channels(channels)
    with pytest.raises(UsageError, match=r"channels=4 is not possible; use 1 \(grey\), 3 \(RGB\)"):
        check_channels(4)
