"""One side of a comparison as a process: it prepares, then computes one timed round per line on standard input.

    INTERPRETER serve.py SIDE.py '{...}'

``SIDE.py`` defines ``prepare(spec) -> Side``. All sides, ours and the others', are timed by this file and by nothing
else: it uses only the standard library and runs in any interpreter. Between rounds a side waits in a read and computes
nothing; the CPU seconds it used meanwhile (for example by spinning threads) are in its next answer.

Standard output contains one JSON object per line: ``{"ready": facts}`` or ``{"failed": reason}``, then an answer for
each input line, ``{"call": name, ...arguments}``: ``round`` is timed here, any other name is a method of the side.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from typing import Any, Protocol, runtime_checkable

#: Warm-up after the first step: minimum number of steps, and of seconds.
WARM_STEPS, WARM_SECONDS = 2, 0.5


@runtime_checkable
class Side(Protocol):
    """What ``prepare`` returns.

    Attributes:
        facts: what to know before the first round; JSON.
        images: images per dispatch.
    """

    facts: dict[str, Any]
    images: int

    def dispatch(self) -> None:
        """Dispatch one step (or the several steps of one call) to the device."""

    def wait(self) -> None:
        """Wait until everything dispatched is done."""


class Clock:
    """Times rounds of about equal length, however long a step takes."""

    def __init__(self, side: Side):
        """Run the first step and the warm-up."""
        self.side = side
        self.first_seconds = self._time(1)
        self._estimate = self._time(1)
        steps, spent = 1, self._estimate
        while steps < WARM_STEPS or spent < WARM_SECONDS:
            self._estimate = self._time(1)
            steps, spent = steps + 1, spent + self._estimate

    def round(self, seconds: float) -> dict[str, float]:
        """Run for about ``seconds``; the step before it, with cold caches, is not timed.

        The CPU seconds are those of all threads of this process, including threads that wait in a loop.
        """
        self._time(1)
        count = max(1, round(seconds / self._estimate))
        cpu = time.process_time()
        took = self._time(count)
        self._estimate = took / count
        return {"images": count * self.side.images, "seconds": took, "cpu_seconds": time.process_time() - cpu}

    def _time(self, count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            self.side.dispatch()
        self.side.wait()
        return time.perf_counter() - began


def main() -> None:
    """Prepare, then answer until standard input ends."""
    file, spec = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        side = _load(file).prepare(json.loads(spec))
        clock = Clock(side)
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        return answer({"failed": f"{type(error).__name__}: {text[0]}"})
    answer({"ready": {**side.facts, "first_seconds": clock.first_seconds}})
    done = time.process_time()
    for line in sys.stdin:
        idle = time.process_time() - done
        call = json.loads(line)
        name = call.pop("call")
        result = clock.round(**call) if name == "round" else getattr(side, name)(**call)
        answer({**result, "idle_cpu_seconds": idle})
        done = time.process_time()
    return None


def _load(file: str) -> Any:
    spec = importlib.util.spec_from_file_location("side", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = sys.modules["side"] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules are not top-level ones
    main()
