"""A million examples in one ArrayRecord file: time to open it, memory of the index, cost of reading a record.

Claim: a data set of a million examples opens in well under 5 seconds, the first time as the second, because its labels
are in a record of their own; it takes about 21 bytes of memory per example. Reading a record takes microseconds. The
library's own data source asks its reader for a list of one record, which takes longer the more records the file has:
milliseconds here.

    python experiments/benchmarks/records_index.py [--examples 1000000] [--json records-index.json]

Every figure comes from a process of its own, with the sides taking turns. Hardware: any CPU, 1 GB of disk; minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

READS = 20_000
SLOW_READS = 500
"""Of the side that takes a millisecond each."""


class Small:
    """A source of small arrays, made as they are asked for."""

    def __init__(self, count: int):
        self.labels = (np.arange(count) % 1000).astype(np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def spec(self) -> dict[str, Any]:
        from resnet_jax.data import Field

        return {"image": Field((8, 8, 1), "uint8", "image"), "label": Field((), "int32", "label")}

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        pixels = np.frombuffer(index.to_bytes(8, "little") * 8, np.uint8).reshape(8, 8, 1)
        return {"image": pixels, "label": self.labels[index]}

    def describe(self, index: int) -> str:
        return f"index {index} of small"


def write(path: Path, count: int) -> float:
    """Write the file; return the seconds it took."""
    from resnet_jax.data import Dataset
    from resnet_jax.data.convert import write_dataset

    began = time.perf_counter()
    names = tuple(str(n) for n in range(1000))
    write_dataset(Dataset("small", {"all": Small(count)}, names), path, threads=2)
    return time.perf_counter() - began


def resident() -> int:
    """Return the memory of this process that is not shared with files, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return 1024 * int(next(line.split()[1] for line in file if line.startswith("RssAnon")))


def opening(path: str) -> dict[str, float]:
    """Open the file in this process; return seconds, and bytes of memory it takes an example."""
    from resnet_jax.data import load_dataset

    load_dataset("digits")  # what is imported on the way is not the index
    import array_record.python.array_record_module  # noqa: F401

    before, began = resident(), time.perf_counter()
    records = load_dataset(f"array_record:{path}").splits["all"]
    records[len(records) // 2]
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "bytes_an_example": (resident() - before) / len(records)}


def reading(path: str, side: str) -> dict[str, float]:
    """Read records at random in one thread; return microseconds each."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    from resnet_jax.data.record_file import RecordFile

    file: Any = RecordFile(path) if side == "ours" else ArrayRecordDataSource(path)
    places = np.random.default_rng(0).integers(0, len(file), READS if side == "ours" else SLOW_READS).tolist()
    file[0]
    began = time.perf_counter()
    for place in places:
        file[place]
    return {"microseconds": 1e6 * (time.perf_counter() - began) / len(places)}


def in_a_process(*arguments: str) -> dict[str, float]:
    """Run one side in a process of its own; return what it found."""
    done = subprocess.run([sys.executable, __file__, "--side", *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Parse the command line; measure, or be one side."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        what, path, *more = options.side
        print(json.dumps(opening(path) if what == "opening" else reading(path, *more)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.array_record"
        result: dict[str, Any] = {"examples": options.examples, "seconds_to_write": write(path, options.examples)}
        result["bytes_an_example_on_disk"] = path.stat().st_size / options.examples
        opened = [in_a_process("opening", str(path)) for _ in range(options.rounds)]
        result["seconds_to_open"] = [found["seconds"] for found in opened]
        result["bytes_an_example_in_memory"] = statistics.median(found["bytes_an_example"] for found in opened)
        sides: dict[str, list[float]] = {"ours": [], "library": []}
        for _ in range(options.rounds):
            for side, found in sides.items():
                found.append(in_a_process("reading", str(path), side)["microseconds"])
        result["microseconds_a_record"] = sides
    result["cpus"] = os.cpu_count()
    print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
