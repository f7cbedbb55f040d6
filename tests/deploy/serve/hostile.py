"""What strangers send: bodies of POST /predict that are refused, each with its status and words of its answer."""

from __future__ import annotations

import base64
import json
import struct
import zlib

from tests.deploy.serve.tools import image


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header says many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def scans(count: int) -> bytes:
    """A JPEG that says many scans."""
    data = image("red", ".jpg", (64, 64))
    return data[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * count + data[-2:]


def endless_pixels() -> bytes:
    """A PNG of 8x8 pixels whose 250 kB unpack to 256 MB."""
    whole = image("red")
    before, (length,) = whole.index(b"IDAT") - 4, struct.unpack_from(">I", whole, whole.index(b"IDAT") - 4)
    packing = zlib.compressobj(9)
    packed = b"".join(packing.compress(bytes(1 << 20)) for _ in range(256)) + packing.flush()
    data = struct.pack(">I", len(packed)) + b"IDAT" + packed + struct.pack(">I", zlib.crc32(b"IDAT" + packed))
    return whole[:before] + data + whole[before + 12 + length :]


JSON = {"content-type": "application/json"}
REFUSED = {
    "text": (b"hello, I am a JPEG", {"content-type": "image/jpeg"}, 415, "not a JPEG or PNG"),
    "GIF": (b"GIF89a" + bytes(100), {}, 415, "a GIF image"),
    "nothing": (b"", {}, 422, "empty"),
    "cut": (image("red")[:-30], {}, 422, "cut short"),
    "bomb": (bomb(60_000, 60_000), {}, 413, "3,600,000,000 pixels"),
    "bomb in base64": (
        json.dumps({"images": [base64.b64encode(bomb(9_999, 9_999)).decode()]}).encode(),
        JSON,
        413,
        "pixels",
    ),
    "unpacks to more": (endless_pixels(), {}, 422, "unpack to more"),
    "scans": (scans(200), {}, 422, "scans"),
    "kind of body": (b"<x/>", {"content-type": "application/xml"}, 415, "Content-Type"),
    "no JSON": (b"{", JSON, 422, "no JSON"),
    "deep JSON": (b"[" * 100_000, JSON, 422, "no JSON"),
    "JSON list": (b"[1]", JSON, 422, "must be an object"),
    "no images": (b'{"images": []}', JSON, 422, "no image"),
    "word": (b'{"images": [], "tpo": 1}', JSON, 422, "'tpo'"),
    "top": (b'{"images": [[[1]]], "top": 0}', JSON, 422, "top"),
    "ragged": (b'{"images": [[[[1,2,3]], [[1,2,3], [1,2,3]]]]}', JSON, 422, "equal length"),
    "values": (b'{"images": [[[[1,2,300]]]]}', JSON, 422, "0 to 255"),
    "fractions": (b'{"images": [[[[1,2,0.5]]]]}', JSON, 422, "whole numbers"),
    "infinite": (b'{"images": [[[[1,2,1e999]]]]}', JSON, 422, "whole numbers"),
    "not a number": (b'{"images": [[[[NaN,2,3]]]]}', JSON, 422, "whole numbers"),
    "nothing in it": (b'{"images": [[[]]]}', JSON, 422, "pixels must be"),
    "objects": (b'{"images": [[[{}]]]}', JSON, 422, "pixels must be"),
    "giant": (b'{"images": [[[[1,2,' + b"9" * 400 + b"]]]]}", JSON, 422, "pixels must be"),
    "channels": (b'{"images": [[[[1,2]]]]}', JSON, 422, "(height, width, 3)"),
    "words": (b'{"images": ["?"]}', JSON, 422, "base64"),
    "number": (b'{"images": [7]}', JSON, 422, "list of rows"),
    "several": (json.dumps({"images": ["aGVsbG8="] * 65}).encode(), JSON, 413, "65 images"),
    "form": (b"--x\r\nhello", {"content-type": "multipart/form-data; boundary=x"}, 422, "no image"),
    "boundary": (b"", {"content-type": "multipart/form-data"}, 422, "form"),
}
