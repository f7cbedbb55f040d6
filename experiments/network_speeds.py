"""Throughput of every named network on this machine's CPU, in training and inference: a line of JSON for each.

    uv run python experiments/network_speeds.py                    # all of them: several hours on an idle machine
    uv run python experiments/network_speeds.py --only 'resnet*_cifar' --modes infer
    uv run python experiments/network_speeds.py --minutes 20       # starts no measurement after this time

Each is one process of ``resnet-jax bench``: the median of three turns of a second. The batch is 128 for images of up to
64 pixels and for signals, otherwise 16, and 16 for networks of more than 300 million multiply-adds on small images.
Small networks come first. Running it again continues with what is missing; ``--again`` repeats failed measurements,
whose line says why they failed. The results are experiments/results/bench/networks-cpu.jsonl, which
``experiments/tables.py`` reads. The machine should be idle otherwise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from resnet_jax.models import MODELS, count, create_model, list_models

OUT = Path(__file__).parent / "results" / "bench" / "networks-cpu.jsonl"
LIMIT = 900


def measured(name: str, mode: str, batch: int) -> dict[str, Any]:
    """Return the line of a network: its speed, or why there is none."""
    command = [sys.executable, "-m", "resnet_jax", "bench", mode, name, "--batch", str(batch), "--rounds", "3",
               "--seconds", "1", "--json"]  # fmt: skip
    line: dict[str, Any] = {"network": name, "mode": mode, "batch": batch}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return line | {"failed": f"not done after {LIMIT} s"}
    if done.returncode:
        return line | {"failed": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    found = json.loads(done.stdout.splitlines()[-1])
    found = found[0] if isinstance(found, list) else found
    return line | {
        "images_per_second": round(found["ours"], 3), "rounds": [round(one, 3) for one in found["rounds"]["ours"]],
        "compile_seconds": round(found["compile_seconds"], 2), "processor": found["processor"]["name"],
        "instructions": found["processor"]["instructions"], "cores": found["cores"], "versions": found["versions"],
        "date": found["date"],
    }  # fmt: skip


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of names")
    parser.add_argument("--modes", nargs="+", default=["infer", "train"], choices=("infer", "train"))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    lines = [json.loads(line) for line in OUT.read_text().splitlines()] if OUT.is_file() else []
    done = {(line["network"], line["mode"]) for line in lines if "images_per_second" in line or not given.again}
    names = [name for name in list_models("*") if any(fnmatch(name, pattern) for pattern in given.only)]
    macs = {name: count(create_model(name), MODELS[name].input_shape).macs for name in names}
    began = time.monotonic()
    for name in sorted(names, key=macs.__getitem__):
        small = max(MODELS[name].input_shape[:-1]) <= 150
        for mode in given.modes:
            if (name, mode) in done or time.monotonic() - began > 60 * given.minutes:
                continue
            line = measured(name, mode, 128 if small and macs[name] <= 3e8 else 16)
            print(name, mode, line.get("images_per_second", line.get("failed")), flush=True)
            with OUT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
