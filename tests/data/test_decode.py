from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from resnet_jax.data.decode import check_channels, decode_image, to_channels
from resnet_jax.data.headers import shape_in_header
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


@pytest.mark.parametrize("data", [bytes(70), png(RGB)[:60], JPEG[: len(JPEG) // 2], JPEG[:-20]])
def test_what_cannot_be_decoded_is_named(data):
    begins = {b"\0": "", b"\x89": ", which begin as a PNG image but", b"\xff": ", which begin as a JPEG image but"}
    message = rf"here\.jpg: cannot decode these {len(data):,} bytes{begins[data[:1]]}.*; need a whole JPEG"
    with pytest.raises(DataError, match=message):
        decode_image(data, 3, "here.jpg")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"not an image", "this is text and no image that is read"),
        (b"<!DOCTYPE html><html>", "a web page .* a download that failed"),
        (b"RIFF\0\0\0\0WAVEfmt ", r"sound \(WAV\)"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file .* h5py"),
        (b"MATLAB 5.0 MAT-file" + bytes(120), "a MATLAB file .*loadmat"),
        (b"\x80\x04\x95" + bytes(9), "a Python pickle .* may run code"),
        (b"PK\x03\x04" + bytes(30), "a zip archive .* unpack it"),
        (bytes(257) + b"ustar\0" + bytes(200), "a tar archive .* unpack it"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "a HEIC image .* convert it to PNG or JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer .* git lfs pull"),
        (b"#?RADIANCE\n", "no fixed scale"),
        (b"v/1\x01" + bytes(30), "an OpenEXR image"),
    ],
)
def test_what_is_no_image_is_said_to_be_what_it_is(data, message):
    with pytest.raises(DataError, match=f"here: .*{message}"):
        decode_image(data, 3, "here")


def encoded(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


@pytest.mark.parametrize("suffix", [".tif", ".ppm", ".ras"])
def test_more_lossless_formats_give_rgb_exactly(suffix):
    np.testing.assert_array_equal(decode_image(encoded(suffix, RGB), 3, "f"), RGB)
    grey = decode_image(encoded(suffix, RGB), 1, "f")
    assert np.abs(grey.astype(int) - to_channels(RGB, 1)).max() <= 1


@pytest.mark.parametrize("suffix", [".gif", ".jp2", ".avif"])
def test_lossy_formats_are_read(suffix):
    plain = np.tile(np.array([200, 100, 30], np.uint8), (40, 48, 1))
    image = decode_image(encoded(suffix, plain), 3, "f")
    assert image.shape == plain.shape
    assert np.abs(image.mean((0, 1)) - plain.mean((0, 1))).max() <= 3  # a GIF mixes 256 colours


def test_of_an_animation_the_first_image_is_read():
    animation = cv2.Animation()
    animation.frames, animation.durations = [RGB[..., ::-1].copy(), 255 - RGB[..., ::-1]], np.array([50, 50])
    data = cv2.imencodeanimation(".png", animation)[1].tobytes()
    np.testing.assert_array_equal(decode_image(data, 3, "f"), RGB)


DEEP = np.random.default_rng(1).integers(0, 65536, (40, 40, 3), np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pnm", ".jp2"])
def test_of_sixteen_bits_the_upper_eight_are_kept_and_twelve_bit_values_refused(suffix):
    if suffix != ".jp2":  # which loses a little
        np.testing.assert_array_equal(decode_image(encoded(suffix, DEEP), 3, "f"), DEEP >> 8)
        np.testing.assert_array_equal(decode_image(encoded(suffix, DEEP[..., 0]), 1, "f")[..., 0], DEEP[..., 0] >> 8)
    for image in (DEEP >> 5, DEEP[..., 0] >> 5):
        for channels in (1, 3):
            with pytest.raises(
                DataError, match=r"f: 16 bits a channel, but the brightest value is .* 10 or 12-bit values"
            ):
                decode_image(encoded(suffix, image), channels, "f")
    black = np.zeros((40, 40), np.uint16)
    assert decode_image(encoded(suffix, black), 3, "f").max() == 0


def tagged(data: bytes, tag: int, value: int) -> bytes:
    """Change a short tag of a little-endian TIFF."""
    at, data = struct.unpack("<I", data[4:8])[0], bytearray(data)
    for entry in range(struct.unpack("<H", data[at : at + 2])[0]):
        where = at + 2 + 12 * entry
        if struct.unpack("<H", data[where : where + 2])[0] == tag:
            data[where + 8 : where + 10] = struct.pack("<H", value)
    return bytes(data)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB[..., 0].astype(np.float32) / 255, "32-bit floating-point numbers, which have no fixed scale"),
        (RGB[..., 0].astype(np.float64), "64-bit floating-point"),
        (RGB[..., 0].astype(np.int16), "16-bit signed integers"),
        (RGB[..., 0].astype(np.int32), "32-bit signed integers"),
        (np.dstack([RGB, RGB[..., :1]]), "a TIFF with transparent pixels"),
    ],
)
def test_tiffs_without_a_stated_way_to_eight_bits_are_refused(image, message):
    with pytest.raises(DataError, match=f"f: .*{message}"):
        decode_image(cv2.imencode(".tif", image)[1].tobytes(), 3, "f")


def test_tiff_colours():
    opaque = np.dstack([RGB[..., ::-1], np.full((7, 5), 255, np.uint8)])
    np.testing.assert_array_equal(decode_image(cv2.imencode(".tif", opaque)[1].tobytes(), 3, "f"), RGB)
    for dtype, scale in ((np.uint8, 1), (np.uint16, 257)):
        grey = RGB[..., 0].astype(dtype) * scale
        negative = tagged(cv2.imencode(".tif", grey, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1].tobytes(), 262, 0)
        np.testing.assert_array_equal(decode_image(negative, 3, "f")[..., 1], 255 - RGB[..., 0])
    lab = tagged(cv2.imencode(".tif", RGB)[1].tobytes(), 262, 8)
    with pytest.raises(DataError, match="photometric 8"):
        decode_image(lab, 3, "f")


@pytest.mark.parametrize(
    "header", [b"P5\n4 2\n100\n", b"P5 4 2 # a comment\n100\n", b"P7\nWIDTH 4\nHEIGHT 2\nENDHDR\n"]
)
def test_anymaps_whose_white_is_another_value_are_refused(header):
    with pytest.raises(DataError, match=r"f: a P(NM|AM) image"):
        decode_image(header + bytes(8), 1, "f")


def bomb(height: int, width: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("sides", [(40_000, 40_000), (14_000, 14_000), (2**21, 100)])
def test_an_image_too_large_to_decode_is_refused_by_its_header(sides):
    with pytest.raises(DataError, match=rf"huge: its header says {sides[0]:,} x {sides[1]:,} pixels, more than"):
        decode_image(bomb(*sides), 3, "huge")


def test_sizes_in_headers():
    for suffix in (".png", ".bmp", ".gif", ".tif", ".jpg"):
        assert shape_in_header(encoded(suffix, RGB)) == (7, 5), suffix
    assert shape_in_header(encoded(".jp2", DEEP)) == (40, 40)
    for data in (b"", b"\x89PNG", b"\xff\xd8\xff", b"II*\0\xff\xff\xff\xff", b"GIF8"):
        assert shape_in_header(data) is None


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
