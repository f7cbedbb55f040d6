"""Bytes changed by chance: bits flipped, parts cut, doubled, exchanged and put in, numbers made extreme."""

from __future__ import annotations

import random
import struct

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**31 - 2, 10**6)
#: What texts are hurt by: YAML, JSON, XML, CSV, paths and names.
_TOKENS = (
    b"\x00",
    b"\n",
    b"\xff\xfe",
    b"\x1b[2J",
    b"&a [*a, *a]",
    b"!!python/object/apply:os.system ['true']",
    b"[" * 3000,
    b'{"a":' * 2000,
    b"9" * 5000,
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"../" * 8 + b"etc/passwd",
    b"/dev/zero",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
    b"<a>" * 100,
    b"\xed\xa0\x80",
    b"'",
    b'"',
    b",",
    b":",
    b"\\u0000",
    b"1:" * 300,
    b"0x" + b"f" * 6000,
    b"2001-99-99",
    b"4294967296",
    b"1000000000000",
    b"__import__('os')",
    b"c" * 70000,
)


def mutated(seed: bytes, rng: random.Random, *, text: bool = False) -> bytes:
    """Return a file that began as ``seed``, changed in one to four ways; seldom bytes of chance alone.

    Args:
        seed: a file that is valid.
        rng: of the changes.
        text: whether tokens of texts are put in too.
    """
    if rng.random() < 0.03:
        return rng.randbytes(rng.randrange(300))
    data = bytearray(seed)
    for _ in range(1 + min(rng.randrange(4), rng.randrange(4))):
        _change(data, rng, text=text)
    return bytes(data)


def _change(data: bytearray, rng: random.Random, *, text: bool) -> None:
    size = len(data)
    near_start = rng.random() < 0.4  # where headers are
    at = rng.randrange(min(size, 128) if near_start else size) if size else 0
    kind = rng.randrange(9 + 3 * text)
    if kind == 0 or not size:
        data[at:at] = rng.randbytes(1 + rng.randrange(8))
    elif kind == 1:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, 0x20, 0x30))
    elif kind == 3:
        del data[at:]
    elif kind == 4:
        del data[at : at + 1 + rng.randrange(16)]
    elif kind == 5:
        part = data[at : at + 1 + rng.randrange(64)]
        to = rng.randrange(size)
        data[to:to] = part * rng.choice((1, 1, 2, 50))
    elif kind == 6:
        other, length = rng.randrange(size), 1 + rng.randrange(16)
        first, second = data[at : at + length], data[other : other + length]
        data[at : at + length], data[other : other + length] = second, first
    elif kind == 7:
        number, form = rng.choice(_NUMBERS), rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
        packed = struct.pack(form, number & (1 << 8 * struct.calcsize(form)) - 1)
        data[at : at + len(packed)] = packed
    elif kind == 8:
        data[at : at + 1 + rng.randrange(8)] = bytes(1 + rng.randrange(8))
    else:
        token = rng.choice(_TOKENS)
        length = rng.choice((0, 1, len(token)))
        data[at : at + length] = token
