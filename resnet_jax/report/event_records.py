"""TensorBoard's event files as bytes: records with checksums, and what of them a resumed run keeps.

A record is its length (8 bytes), a checksum of that (4), an ``Event`` message, and a checksum of it (4), as in
https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Bytes of the longest event that is read; a scalar has under 200.
LONGEST = 2**24


def encode(event: Any) -> bytes:
    """Return the record of an ``Event``."""
    from tensorboardX.record_writer import masked_crc32c

    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data)))
    )  # fmt: skip


def file_version() -> bytes:
    """Return the record that every file begins with."""
    return encode(_messages().Event(wall_time=time.time(), file_version="brain.Event:2"))


def scalar(tag: str, value: float, step: int) -> bytes:
    """Return the record of a scalar."""
    from tensorboardX.summary import scalar as summary

    return encode(_messages().Event(wall_time=time.time(), step=step, summary=summary(tag, value)))


def records_of(path: Path) -> Iterator[tuple[bytes, Any]]:
    """Yield (bytes, ``Event``) of every whole record; (nothing, None) once for each place that is none.

    A record whose content is damaged is stepped over; behind a damaged length nothing can be found.
    """
    from tensorboardX.record_writer import masked_crc32c

    event_type = _messages().Event
    with path.open("rb") as file:
        while head := file.read(12):
            if len(head) < 12 or struct.unpack("<I", head[8:])[0] != masked_crc32c(head[:8]):
                yield b"", None
                return
            (size,) = struct.unpack("<Q", head[:8])
            rest = file.read(size + 4) if size <= LONGEST else b""
            if len(rest) < size + 4:
                yield b"", None
                return
            try:
                if struct.unpack("<I", rest[size:])[0] != masked_crc32c(rest[:size]):
                    raise ValueError("the checksum differs")
                event = event_type.FromString(rest[:size])
            except Exception:  # of protobuf's own kinds too
                yield b"", None
                continue
            yield head + rest, event


def scalars_of(event: Any) -> list[tuple[str, int, float]]:
    """Return (tag, step, value) of the scalars of an event."""
    return [(value.tag, int(event.step), float(value.simple_value)) for value in event.summary.value]


def read_scalars(folder: Path) -> list[tuple[str, int, float]]:
    """Return (tag, step, value) of every scalar in the event files of a folder, file by file."""
    files = sorted(folder.glob("*.tfevents.*"))
    events = (event for path in files for _, event in records_of(path) if event is not None)
    return [scalar for event in events for scalar in scalars_of(event)]


def _messages() -> Any:
    from tensorboardX.proto import event_pb2

    return event_pb2  # made at run time
