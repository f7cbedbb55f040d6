"""What happens to image files that are broken, hostile or of an odd size: refused by name, or decoded whole."""

from __future__ import annotations

import functools
import io
import resource
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.decode import decode_image, decode_stored
from resnet_jax.data.headers import jpeg_has_end, shape_in_header
from resnet_jax.errors import DataError

RNG = np.random.default_rng(0)
PICTURES = {
    "smooth": cv2.resize(RNG.integers(0, 256, (6, 6, 3), np.uint8), (48, 40), interpolation=cv2.INTER_CUBIC),
    "noise": RNG.integers(0, 256, (40, 48, 3), np.uint8),
    "grey": np.full((40, 48, 3), 128, np.uint8),
}
FILES = {
    "jpg": (".jpg", []),
    "progressive jpg": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "jpg with restarts": (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
    "png": (".png", []),
    "lossless webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
    "gif": (".gif", []),
    "bmp": (".bmp", []),
    "tif": (".tif", []),
    "jp2": (".jp2", []),
    "ppm": (".ppm", []),
    "ras": (".ras", []),
}


def cuts(data: bytes) -> list[int]:
    return [*range(0, len(data), max(1, len(data) // 25)), *range(max(0, len(data) - 4), len(data))]


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("kind", FILES)
def test_cut_short_anywhere_a_file_is_refused(kind, picture):
    suffix, options = FILES[kind]
    data = cv2.imencode(suffix, PICTURES[picture], options)[1].tobytes()
    assert decode_image(data, 3, "f").shape == PICTURES[picture].shape
    for cut in cuts(data):
        for read in (decode_image, decode_stored):
            with pytest.raises(DataError, match="f: "):
                read(data[:cut], 3, "f")


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("kind", ["jpg", "progressive jpg", "jpg with restarts", "png", "gif"])
def test_cut_short_and_filled_up_with_zeros_a_file_is_refused(kind, picture):
    suffix, options = FILES[kind]
    data = cv2.imencode(suffix, PICTURES[picture], options)[1].tobytes()
    whole = decode_image(data, 3, "f")
    for cut in cuts(data):
        filled = data[:cut] + bytes(len(data) - cut)
        try:
            found = decode_image(filled, 3, "f")
        except DataError:
            continue
        np.testing.assert_array_equal(found, whole)  # only the last bytes of a PNG, which are zeros anyway


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image():
    data, small = (cv2.imencode(".jpg", PICTURES[name])[1].tobytes() for name in ("noise", "grey"))
    segment = b"Exif\0\0" + small
    whole = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    assert jpeg_has_end(whole)
    np.testing.assert_array_equal(decode_image(whole, 3, "f"), decode_image(data, 3, "f"))
    assert not jpeg_has_end(whole[:-2] + bytes(2))
    assert jpeg_has_end(whole + b"what a camera adds")


SIZES = [(1, 1), (20_000, 10), (10, 20_000)]


@pytest.mark.parametrize(
    ("suffix", "size"),
    [(suffix, size) for suffix in (".jpg", ".png", ".bmp", ".gif", ".tif", ".ppm", ".ras") for size in SIZES]
    + [(".webp", (1, 1)), (".webp", (16_000, 10))],
)
def test_sides_of_one_and_of_twenty_thousand_are_decoded(suffix, size):
    image = np.full((*size, 3), (30, 60, 200), np.uint8)
    data = cv2.imencode(suffix, image)[1].tobytes()
    assert shape_in_header(data) == size
    found = decode_image(data, 3, "f")
    assert found.shape == (*size, 3)
    far = np.abs(found.mean((0, 1)) - [200, 60, 30]).max()
    assert far <= (40 if suffix == ".gif" else 4)  # a GIF mixes 256 colours


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def webp(kind: bytes, body: bytes) -> bytes:
    body = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


BOMBS = {
    "gif": b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(20),
    "webp, extended": webp(b"VP8X", bytes(4) + (16_382).to_bytes(3, "little") + (16_382).to_bytes(3, "little")),
    "webp, lossless": webp(b"VP8L", b"\x2f" + struct.pack("<I", 16_382 | 16_382 << 14) + bytes(9)),
    "webp, lossy": webp(b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383) + bytes(9)),
    "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, 60_000, -60_000) + bytes(40),
    "pgm": b"P5\n# a comment\n60000 60000\n255\n" + bytes(9),
    "pam": b"P7\nWIDTH 60000\nHEIGHT 60000\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + bytes(9),
    "ras": b"\x59\xa6\x6a\x95" + struct.pack(">II", 60_000, 60_000) + bytes(40),
    "avif": b"\0\0\0\x1cftypavif" + bytes(12) + b"\0\0\0\x14ispe" + bytes(4) + struct.pack(">II", 60_000, 60_000),
    "jpg": b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", 60_000, 60_000) + bytes(12) + b"\xff\xda\0\2\xff\xd9",
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("read", [decode_image, decode_stored])
def test_a_header_that_asks_for_too_much_is_refused(kind, read):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"f: its header says [\d,]+ x [\d,]+ pixels, more than the 178,956,970"):
        read(BOMBS[kind], 3, "f")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16  # KiB


@functools.cache
def nothing() -> bytes:
    """Return 128 MiB of zeros, packed."""
    packer = zlib.compressobj(1)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(128)), packer.flush()])


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_text_that_inflates_beyond_all_measure_takes_no_memory(kind):
    data = cv2.imencode(".png", PICTURES["noise"])[1].tobytes()
    packed = nothing()
    head = {b"zTXt": b"key\0\0", b"iTXt": b"key\0\1\0\0\0", b"iCCP": b"name\0\0"}[kind]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = decode_image(data[:33] + chunk(kind, head + packed) + data[33:], 3, "f")
    assert image.shape == PICTURES["noise"].shape
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16


def test_pixels_that_inflate_beyond_the_size_in_the_header_are_not_held():
    header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", nothing())
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode_image(data, 3, "f").shape == (16, 16, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16


def saved(image: Image.Image, suffix: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


def test_every_mode_of_pillow_becomes_what_the_module_says():
    rgb = PICTURES["noise"]
    image = Image.fromarray(rgb)
    grey = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(decode_image(saved(image.convert("L"), "PNG"), 3, "f"), np.dstack([grey] * 3))
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(grey))
    np.testing.assert_array_equal(decode_image(saved(alpha, "PNG"), 3, "f"), rgb)
    with_grey = saved(Image.merge("LA", (image.convert("L"), Image.fromarray(grey[::-1]))), "PNG")
    np.testing.assert_array_equal(decode_image(with_grey, 1, "f")[..., 0], grey)
    stored = decode_stored(with_grey, 0, "f")
    np.testing.assert_array_equal(stored, np.dstack([grey, grey[::-1]]))
    np.testing.assert_array_equal(decode_stored(saved(alpha, "PNG"), 0, "f"), np.dstack([rgb, grey]))
    palette = image.convert("P")
    np.testing.assert_array_equal(decode_image(saved(palette, "PNG"), 3, "f"), np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(decode_image(saved(palette, "GIF"), 3, "f"), np.asarray(palette.convert("RGB")))
    bits = image.convert("1")
    for suffix in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode_image(saved(bits, suffix), 1, "f")[..., 0], np.asarray(bits) * 255)
    smooth = Image.fromarray(PICTURES["smooth"])
    inks = smooth.convert("CMYK")
    found = decode_image(saved(inks, "JPEG", quality=100), 3, "f")
    assert np.abs(found.astype(int) - np.asarray(inks.convert("RGB"))).max() <= 12
    for compression in ("raw", "tiff_lzw"):
        for read in (decode_image, decode_stored):
            found = read(saved(inks, "TIFF", compression=compression), 3, "f")
            assert np.abs(found.astype(int) - np.asarray(inks.convert("RGB"))).max() <= 3


def test_of_an_animated_gif_the_first_image_is_read():
    first, second = (Image.fromarray(PICTURES["noise"]).convert("P") for _ in range(2))
    second = second.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    data = saved(first, "GIF", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode_image(data, 3, "f"), np.asarray(first.convert("RGB")))
