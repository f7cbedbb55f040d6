"""Memory of the process, as managed by the C library."""

from __future__ import annotations

import ctypes
import sys

#: glibc's names for them, ``<malloc.h>``.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Make the process keep freed memory for itself; return whether the C library supports this (glibc does).

    On the CPU, XLA allocates the activations anew at every step. glibc returns such large blocks to the system at once,
    which clears every page of the next ones: 30% of the time of a ResNet-20 step at batch 128, 25% of a ResNet-50 step
    at batch 16 (one AMD core). The process then stays as large as it has ever been, and fragmentation adds to that: 3.0
    GB became 4.3 GB for that ResNet-50.

    This is a choice for a whole process, which belongs to its program: the command line makes it, importing this
    package does not. Call it before the first thread starts: glibc gives a thread a heap of its own, which later
    threads may get after it, and no choice made afterwards makes that heap keep what is freed.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(name, value) for name, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)))
