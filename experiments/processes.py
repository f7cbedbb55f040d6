"""One training in 1, 2 and 4 processes, and with a process killed in the middle: same numbers, and nothing hangs.

    uv run python experiments/processes.py             # about 5 minutes on 2 idle cores
    uv run python experiments/processes.py --steps 60 --quick

Four devices in total, in 1, 2 or 4 processes on this machine (`resnet-jax launch`), train a small network on digits.
Then one of two processes with two devices each is killed by SIGKILL, once the first and once the second, and each run
continues in 1, 2 and 4 processes. The last line of the output is JSON:

``digests``         digest of the parameters, by number of processes, without interruption
``max_difference``  largest difference of a parameter from those of one process, by number of processes; for killed
                    runs, from those of as many processes without interruption
``identical``       whether a killed run that continued in as many processes has the same bits
``batches``         digest of the first global batches, as 1, 2 and 4 processes read them
``ended_after``     seconds from the kill until all processes had ended, by the killed rank
``rows_once``       whether metrics.jsonl of every run has every step exactly once
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

DEVICES = 4
NETWORK = ("--model.stage-sizes", "1", "--model.widths", "4")


def command(processes: int, run: Path, steps: int, save_every: int) -> list[str]:
    """Return the command of a run in so many processes."""
    each = str(DEVICES // processes)
    words = ["train", "digits", *NETWORK, "--train.length", f"{steps} steps", "--run-dir", str(run)]
    words += ["--train.log-every", "1 steps", "--train.save-every", f"{save_every} steps"]
    return [
        *(sys.executable, "-m", "resnet_jax", "launch", "--local", str(processes), "--devices-per-process", each),
        *("--", *words),
    ]


def train(processes: int, run: Path, steps: int, save_every: int) -> str:
    """Train, or go on; return the digest of the parameters."""
    done = subprocess.run(command(processes, run, steps, save_every), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{processes} processes ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return json.loads((run / "summary.json").read_text())["params_digest"]


def kill_one(rank: int, run: Path, steps: int, save_every: int, after: int) -> tuple[float, int, str]:
    """Train in two processes and kill one after so many steps; return seconds until all ended, status, last words."""
    with subprocess.Popen(
        command(2, run, steps, save_every), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as started:
        while started.poll() is None and not _saved(run, after):
            time.sleep(0.02)
        children = sorted(
            int(pid) for pid in Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        )
        began = time.monotonic()
        os.kill(children[rank], signal.SIGKILL)
        assert started.stderr is not None
        words = started.stderr.read()
        status = started.wait()
    return time.monotonic() - began, status, words


def _saved(run: Path, step: int) -> bool:
    folder = run / "checkpoints" / "last"
    return folder.is_dir() and any(path.name.isdecimal() and int(path.name) >= step for path in folder.iterdir())


def parameters(run: Path) -> list[np.ndarray]:
    """Return the arrays of the last state."""
    import jax

    from resnet_jax import load_run

    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(load_run(run, "last").variables)]


def difference(one: Path, other: Path) -> float:
    """Return the greatest difference of a number of two runs' networks."""
    return max(float(np.abs(a - b).max()) for a, b in zip(parameters(one), parameters(other), strict=True))


def rows_once(run: Path, steps: int) -> bool:
    """Return whether every step is in metrics.jsonl exactly once."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, steps + 1))


def batches_digest(processes: int, batches: int = 20) -> str:
    """Return the digest of the first global batches, put together of what every process reads."""
    from resnet_jax.data import TrainBatches, load_dataset, resolve_splits

    records = resolve_splits(load_dataset("digits")).train
    parts = [TrainBatches(records, 64, seed=0, shard=(rank, processes)) for rank in range(processes)]
    digest = hashlib.sha256()
    for step in range(batches):
        for name in ("image", "label"):
            digest.update(np.concatenate([part.batch(step)[name] for part in parts]).tobytes())
    return digest.hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120, help="of every run")
    parser.add_argument("--quick", action="store_true", help="2 processes only, one of them killed")
    parser.add_argument("--out", type=Path, help="where the runs go (default: a temporary directory)")
    options = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    out, steps = options.out or Path(tempfile.mkdtemp(prefix="processes-")), options.steps
    save_every, after = max(steps // 12, 1), max(steps // 3, 1)
    counts, ranks = ((1, 2), (1,)) if options.quick else ((1, 2, 4), (0, 1))
    result: dict[str, Any] = {"steps": steps, "devices": DEVICES, "network": "1 block of 4 channels", "counts": counts}
    result["batches"] = {count: batches_digest(count) for count in counts}
    runs = {count: out / f"whole-{count}" for count in counts}
    result["digests"] = {count: train(count, run, steps, save_every) for count, run in runs.items()}
    print(f"digests {result['digests']}", file=sys.stderr)
    result["max_difference"] = {f"{count} from 1": difference(run, runs[1]) for count, run in runs.items()}
    result["ended_after"], result["identical"], result["rows_once"] = {}, {}, {}
    for rank in ranks:
        killed = out / f"killed-{rank}"
        seconds, status, words = kill_one(rank, killed, steps, save_every, after)
        result["ended_after"][rank] = round(seconds, 2)
        print(f"rank {rank} killed: all ended after {seconds:.2f} s with status {status}\n{words}", file=sys.stderr)
        for count in counts:
            run = out / f"killed-{rank}-goes-on-{count}"
            shutil.copytree(killed, run)
            digest = train(count, run, steps, save_every)
            if count == 2:
                result["identical"][rank] = digest == result["digests"][2]
            name = f"killed rank {rank} of 2, went on in {count}"
            result["max_difference"][name] = difference(run, runs[2])
            result["rows_once"][name] = rows_once(run, steps)
    result["rows_once"] |= {f"whole {count}": rows_once(run, steps) for count, run in runs.items()}
    if options.out is None:
        shutil.rmtree(out)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
