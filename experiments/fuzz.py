"""Give damaged and malicious files to every reader: only our own errors, no code run, bounded memory and time.

uv run python experiments/fuzz.py --inputs 2000 --json        (one core: about 2 ms an input and reader; last line JSON)

Each input is a valid file with random changes (bits, bytes, cuts, parts duplicated or swapped, extreme numbers, tokens
that break YAML, JSON, XML and paths), or random bytes; half of those of sealed formats are changed inside and sealed
again. An input fails if anything other than a value or an error of this package comes out, if code is run, a process
started, or a file written outside the folder of the trial, if the process ends, or if it exceeds the limits below.
Every reader has its own process. The same seed gives the same inputs.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["RESNET_JAX_CACHE"] = "off"  # nothing is kept between inputs

from resnet_jax.errors import ResNetJaxError
from tests.fuzz.guard import TookTooLong, watching
from tests.fuzz.reader import Reader, trial
from tests.fuzz.readers import readers

SECONDS, MEBIBYTES = 10.0, 512
"""Limits of one input."""


_NONE: dict[str, Any] = {"inputs": 0, "read": 0, "refused": 0, "worst_seconds": 0.0, "worst_mib": 0.0}


def fuzz(reader: Reader, inputs: int, seed: int, keep: Path | None, last: Path | None = None) -> dict[str, Any]:
    """Return what came of so many inputs for a reader."""
    results: collections.Counter[str] = collections.Counter()
    failures: dict[str, dict[str, Any]] = {}
    slowest, largest = 0.0, 0
    rng = random.Random(f"{seed} {reader.name}")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        root = Path(folder)
        reader.prepare(root)
        try:
            reader.read(root)  # what is valid is read, and everything is imported
        except Exception as error:
            return {
                "failures": [{"input": -1, "times": 1, "problem": f"the valid file: {error}"}],
                "failed": 1,
                **_NONE,
            }
        for number in range(inputs):
            name, content = reader.input(rng)
            if last is not None:
                last.write_bytes(content)
            problem = None
            with watching(root, limit=4 * SECONDS) as watched:
                try:
                    trial(reader, root, name, content)
                    results["read"] += 1
                except ResNetJaxError:
                    results["refused"] += 1
                except TookTooLong:
                    problem = "took too long"
                except BaseException as error:
                    frames = traceback.extract_tb(error.__traceback__)
                    ours = [frame for frame in frames if "resnet_jax" in frame.filename] or frames
                    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
                    problem = f"{type(error).__name__} at {where}: {str(error)[:100]}"
            slowest, largest = max(slowest, watched.seconds), max(largest, watched.bytes)
            if watched.acts:
                problem = f"did {watched.acts[0]}"
            elif problem is None and watched.seconds > SECONDS:
                problem = f"took {watched.seconds:.1f} s"
            elif problem is None and watched.bytes > MEBIBYTES << 20:
                problem = f"took {watched.bytes >> 20} MiB"
            if problem is not None:
                results["failed"] += 1
                kind = problem.split(":")[0] if "Error" in problem else problem[:30]
                if kind not in failures and keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{reader.name.replace(' ', '-')}-{number}").write_bytes(content)
                failures.setdefault(kind, {"input": number, "problem": problem, "times": 0})["times"] += 1
    return {
        "inputs": inputs,
        "read": results["read"],
        "refused": results["refused"],
        "failed": results["failed"],
        "worst_seconds": round(slowest, 3),
        "worst_mib": round(largest / 2**20, 1),
        "failures": list(failures.values()),
    }


def in_process(name: str, inputs: int, seed: int, keep: Path | None) -> dict[str, Any]:
    """Return what came of a reader in a process of its own, which a fault in a library may end."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        last = Path(folder) / "last"
        command = [sys.executable, __file__, "--inputs", str(inputs), "--seed", str(seed), "--reader", name]
        command += ["--last", str(last), *(["--keep", str(keep)] if keep else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        if keep is not None and last.is_file():
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name.replace(' ', '-')}-ended").write_bytes(last.read_bytes())
        failure = {"input": -1, "times": 1, "problem": f"the process ended with status {done.returncode}"}
        return {**_NONE, "inputs": inputs, "failed": 1, "failures": [failure]}


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200, help="for each reader")
    parser.add_argument("--only", default="", help="readers whose name has this in it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the first input of each kind of failure")
    parser.add_argument("--json", action="store_true", help="the last line is JSON")
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    parser.add_argument("--last", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    if chosen.reader:
        print(json.dumps(fuzz(readers()[chosen.reader], chosen.inputs, chosen.seed, chosen.keep, chosen.last)))
        return 0
    found: dict[str, Any] = {}
    for name in readers():
        if chosen.only not in name:
            continue
        row = found[name] = in_process(name, chosen.inputs, chosen.seed, chosen.keep)
        print(
            f"{name:20} {row['inputs']:6,} inputs  {row['read']:6,} read  {row['refused']:6,} refused  "
            f"{row['failed']:4,} failed  worst {row['worst_seconds']:6.3f} s {row['worst_mib']:7.1f} MiB",
            flush=True,
        )
        for failure in row["failures"]:
            print(f"    {failure['times']} x {failure['problem']} (input {failure['input']})", flush=True)
    total = {key: sum(row[key] for row in found.values()) for key in ("inputs", "read", "refused", "failed")}
    total |= {key: max((row[key] for row in found.values()), default=0) for key in ("worst_seconds", "worst_mib")}
    print(json.dumps({**total, "seed": chosen.seed, "readers": found}) if chosen.json else total)
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
