"""NumPy's files: what np.load gives, and nothing of what a header only claims."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from resnet_jax.runtime.limits import LIMITS, UNPACKED
from resnet_jax.runtime.plain_numpy import read_array, read_arrays, read_either

ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(24).reshape(2, 3, 4)),
    np.array(3),
    np.zeros((0, 4)),
    np.array(["ab", "\U0001f600"]),
    np.array([b"x"]),
    np.zeros(2, "U0"),
    np.zeros(3, [("a", "i4"), ("b", "f8")]),
    np.array([True]),
    np.arange(3, dtype=">f4"),
    np.zeros(2, "M8[s]"),
]


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def claiming(shape: str, descr: str = "'|u1'", data: bytes = b"") -> bytes:
    """Return an array of a header that is not written by NumPy."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.shape}")
def test_it_is_what_numpy_reads(array):
    theirs = np.load(io.BytesIO(npy(array)))
    packed = io.BytesIO()
    np.savez_compressed(packed, **{"é/y": array})
    for ours in (read_array(npy(array)), read_arrays(packed.getvalue())["é/y"], read_either(npy(array))):
        assert (ours.dtype, ours.shape, ours.flags.f_contiguous) == (
            theirs.dtype,
            theirs.shape,
            theirs.flags.f_contiguous,
        )
        assert (ours == theirs).all()
        assert ours.flags.writeable


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (claiming("(4000000000,)"), "by its header, and 0 bytes follow"),
        (claiming("(2, 3)", data=b"12345"), "by its header, and 5 bytes follow"),
        (claiming("(-1,)"), "by its header"),
        (claiming("(1,)", "'|O'"), "allow_pickle"),
        (claiming("(1,)", "[('a', '|O')]"), "allow_pickle"),
        (claiming("(1,)", "'<U1'", struct.pack("<I", 0x110000)), "characters that there are not"),
        (claiming("(" * 3000), "."),
        (claiming("__import__('os').system('true')"), "."),
        (b"\x93NUMPY\x09\x00" + bytes(9), "version"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(90), "a header of 4,294,967,295 bytes"),
        (b"GIF8", "does not begin"),
    ],
)
def test_what_a_header_claims_takes_no_memory(data, message):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            read_array(data)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in entries.items():
            with file.open(name, "w", force_zip64=True) as member:
                member.write(content)
    return buffer.getvalue()


def test_an_archive_that_unpacks_to_gigabytes_is_refused_before_it_does(monkeypatch):
    monkeypatch.setenv(UNPACKED.variable, "1")
    bomb = zipped({"x.npy": npy(np.zeros(4 << 20, np.uint8))})
    assert len(bomb) < 10_000
    with pytest.raises(
        ValueError, match=r"bytes unpack to 4,194,432; at most 1 MiB \(RESNET_JAX_MAX_UNPACKED_MIB allows"
    ):
        read_arrays(bomb)
    noise = np.random.default_rng(0).integers(0, 256, 2 << 20, np.uint8)
    assert (read_arrays(zipped({"x.npy": npy(noise)}))["x"] == noise).all(), "what is large itself may be"
    monkeypatch.setenv(UNPACKED.variable, "5")
    assert read_arrays(bomb)["x"].size == 4 << 20


def test_entries_that_lie_over_each_other_or_have_one_name():
    whole = zipped({"a.npy": npy(np.zeros(3000))}, zipfile.ZIP_STORED)
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        central = whole[file.start_dir : -22]
    many = central.replace(b"a.npy", b"b.npy")
    end = whole[-22:]
    count, size = struct.pack("<HH", 2, 2), struct.pack("<I", 2 * len(central))
    over = whole[: len(whole) - 22 - len(central)] + central + many + end[:8] + count + size + end[16:]
    with pytest.raises(ValueError, match="over each other"):
        read_arrays(over)
    twice = zipped({"a.npy": npy(np.zeros(2)), "b.npy": npy(np.ones(2))}).replace(b"b.npy", b"a.npy")
    with pytest.raises(ValueError, match="two of its arrays are called 'a'"):
        read_arrays(twice)


def test_a_flipped_bit_in_an_archive_is_noticed():
    data = bytearray(zipped({"a.npy": npy(np.arange(100.0))}, zipfile.ZIP_STORED))
    data[400] ^= 1
    with pytest.raises(ValueError, match="Bad CRC-32"):
        read_arrays(bytes(data))


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.variable)
def test_limits_say_how_they_are_raised(limit, monkeypatch):
    assert limit.variable in limit.how
    assert f"{limit.default:,}" in limit.how
    monkeypatch.setenv(limit.variable, "7")
    assert limit.value == 7
    for wrong in ("0", "-1", "many", "1e9", "9" * 30):
        monkeypatch.setenv(limit.variable, wrong)
        with pytest.raises(
            Exception, match=f"{limit.variable} is '{wrong}'; need a whole number above 0: {limit.meaning}"
        ):
            _ = limit.value
