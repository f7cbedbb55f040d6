"""Anonymous memory that processes share: it is freed when the last of them ends, however it ends.

Anonymous files of the kernel (``memfd_create``; elsewhere a temporary file that is deleted as soon as it is open) are
passed to child processes as open file descriptors. So a killed process leaves nothing in ``/dev/shm``, and its size, 64
MB in many containers, is no limit.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

ALIGNMENT = 64
Arrays = Mapping[str, tuple[tuple[int, ...], np.dtype]]


def anonymous_file() -> int:
    """Return the descriptor of a new file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("resnet-jax")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Slots:
    """Slots in shared memory, each for the arrays of one batch.

    Args:
        arrays: name -> shape and dtype.
        count: number of slots.
        descriptor: descriptor of their file; None for a new one.
    """

    def __init__(self, arrays: Arrays, count: int, descriptor: int | None = None) -> None:
        self.arrays, self.count = dict(arrays), count
        self._offsets, size = {}, 0
        for name, (shape, dtype) in self.arrays.items():
            self._offsets[name] = size
            size += -(-int(np.prod(shape, dtype=np.int64)) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self.slot_bytes = max(size, ALIGNMENT)
        self.descriptor = anonymous_file() if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, self.slot_bytes * count)
        self._memory = mmap.mmap(self.descriptor, self.slot_bytes * count)

    def views(self, slot: int) -> dict[str, np.ndarray]:
        """Return the arrays of a slot; they are overwritten when it is reused."""
        start = slot * self.slot_bytes
        return {
            name: np.ndarray(shape, dtype, self._memory, start + self._offsets[name])
            for name, (shape, dtype) in self.arrays.items()
        }

    def close(self) -> None:
        """Free the memory."""
        os.close(self.descriptor)
        self._memory.close()


def dump(value: Any) -> int:
    """Pickle a value into a new file without a name, its arrays beside it, where others map them without a copy."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(pickled), *(buffer.raw() for buffer in buffers)]
    sizes, place, offsets = [part.nbytes for part in parts], 0, []
    for size in sizes:
        offsets.append(place)
        place += -(-size // ALIGNMENT) * ALIGNMENT
    head = pickle.dumps(list(zip(offsets, sizes, strict=True)))
    descriptor = anonymous_file()
    with open(descriptor, "wb", closefd=False) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        start = -(-file.tell() // ALIGNMENT) * ALIGNMENT
        for offset, part in zip(offsets, parts, strict=True):
            file.seek(start + offset)
            file.write(part)
        file.truncate(start + max(place, ALIGNMENT))
    return descriptor


def load(descriptor: int) -> Any:
    """Return what :func:`dump` wrote; its arrays are those in the file and read-only."""
    memory = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    length = int.from_bytes(memory[:8], "little")
    start = -(-(8 + length) // ALIGNMENT) * ALIGNMENT
    places = [(start + offset, size) for offset, size in pickle.load(io.BytesIO(memory[8 : 8 + length]))]
    pickled, *buffers = [memory[place : place + size] for place, size in places]
    return pickle.loads(pickled, buffers=buffers)
