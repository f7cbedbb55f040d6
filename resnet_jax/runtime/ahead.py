"""Work done ahead of time by threads, a bounded number of pieces at once, and taken in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any


def in_threads(make: Callable[[int], Any], steps: range, threads: int, ahead: int) -> Generator[Any, None, None]:
    """Yield ``make(step)`` of every step in order, made ahead by threads; an error is raised in place of its step.

    Args:
        make: called in several threads at once.
        steps: what to make.
        threads: number of threads.
        ahead: maximum number in progress or ready; at least one per thread.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
    waiting: deque[Future[Any]] = deque()
    try:
        left = iter(steps)
        waiting.extend(pool.submit(make, step) for step in islice(left, max(ahead, threads)))
        while waiting:
            made = waiting.popleft().result()
            waiting.extend(pool.submit(make, step) for step in islice(left, 1))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)
