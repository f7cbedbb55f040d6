"""Memory, threads and open files of a long training: none of them grows.

Claim: over 3,000 steps with a save every 10, a validation with rows of pictures, TensorBoard, moving averages and
gradients through depth, a process has as many threads and open files at the end as after the first 500 steps, and its
memory stays flat within 2 %.

    uv run python experiments/flat.py --json

The last line contains the figures. The network is small and the data are the built-in digits, so that steps are many
and short; anything that leaks a little at every step or save still shows. Hardware: any CPU (Linux, which has /proc);
about 3 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.runs.fit import fit
from resnet_jax.runs.recipes import parse_config
from resnet_jax.training.observers import Observer, Row

WARM = 500


class Watch(Observer):
    """Observer that counts what this process has, every so many steps."""

    def __init__(self, every: int) -> None:
        self._every = every
        self.samples: list[dict[str, int]] = []

    def on_step(self, row: Row) -> None:
        """Count, if it is due."""
        if int(row["step"]) % self._every == 0:
            self.samples.append({"step": int(row["step"]), **counted()})


def counted() -> dict[str, int]:
    """Return resident memory in KiB, threads and open files of this process."""
    status = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status if ":" in line)
    return {
        "rss_kib": int(fields["VmRSS"].split()[0]),
        "threads": int(fields["Threads"]),
        "files": len(os.listdir("/proc/self/fd")),
    }


def long_run(folder: Path, steps: int, every: int) -> dict[str, Any]:
    """Train so many steps; return what grew."""
    config = parse_config(
        f"""
        recipe: digits
        model: {{name: resnet20_cifar, stage_sizes: [1, 1], widths: [8, 16]}}
        data: {{source: digits, pad: 1}}
        train:
          length: {steps} steps
          batch_size: 64
          save_every: 10 steps
          log_every: 1 steps
          depth_every: 10 steps
          ema: {{decay: 0.99}}
        optim: {{name: sgd, learning_rate: 0.05}}
        """,
        where="this experiment",
    )
    watch = Watch(every)
    fit(config, folder / "run", observers=[watch])
    return summed(watch.samples)


def summed(samples: list[dict[str, int]]) -> dict[str, Any]:
    """Return the last of each figure over what it was once everything had run once."""
    warm = [sample for sample in samples if sample["step"] >= min(WARM, samples[-1]["step"] // 2)]
    first, last = warm[0], warm[-1]
    steps, memory = (np.array([sample[name] for sample in warm], float) for name in ("step", "rss_kib"))
    return {
        "steps": last["step"],
        "from_step": first["step"],
        "rss_mib": [round(first["rss_kib"] / 1024, 1), round(last["rss_kib"] / 1024, 1)],
        "rss_growth": round(last["rss_kib"] / first["rss_kib"] - 1, 4),
        "rss_kib_per_100_steps": round(float(np.polyfit(steps, memory, 1)[0]) * 100, 1) if len(warm) > 2 else None,
        "threads": [first["threads"], last["threads"], max(sample["threads"] for sample in warm)],
        "files": [first["files"], last["files"], max(sample["files"] for sample in warm)],
        "samples": samples,
    }


def main() -> None:
    """Read the command line, train, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--every", type=int, default=100, help="steps between two samples")
    parser.add_argument("--json", action="store_true", help="print the figures as the last line (they always are)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = long_run(Path(folder), options.steps, options.every)
    print(json.dumps(figures))
    flat = figures["rss_growth"] <= 0.02 and all(
        figures[name][1] <= figures[name][0] + 2 for name in ("threads", "files")
    )
    sys.exit(0 if flat else 1)


if __name__ == "__main__":
    main()
