"""Three tasks on one network compared with one network for each: scikit-learn's digits, ResNet-20, three seeds.

Command:   python experiments/multitask.py runs/multitask        (repeat it to resume; --minutes 3 stops by then)
Hardware:  two CPU cores; 24 runs of about 40 s, three of 2 minutes, compiled programs shared between seeds
Results:   experiments/results/multitask: results.json (all test metrics of all runs), cosines.csv (mean cosine between
           the gradients of two tasks by pair, block and third of the training), README.md, task_gradients.png

A network with one head is the recipe digits-multitask with only that head in ``task.heads``; everything else is the
same. Networks with all three heads weight their losses in three ways: fixed, by uncertainty (with its log variances at
the network's learning rate, and at a hundredth of it), and with PCGrad. With fixed weights they are also trained three
times as long, which is as many updates as three single-head networks get together. (Without clipping they diverge.)
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import shutil
import time
from pathlib import Path

import numpy as np

from resnet_jax import fit
from resnet_jax.report.task_gradients import read_task_gradients
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runtime.malloc import keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "multitask"
HEADS = {"digit": "digit:10", "parity": "parity:2", "thickness": "thickness:value"}
HEADLINES = {"digit": "digit/accuracy", "parity": "parity/accuracy", "thickness": "thickness/r2"}
#: What is changed of the recipe in a network with all three heads.
WEIGHTINGS = {
    "fixed": {},
    "uncertainty": {"task.weighting": "uncertainty", "optim.role_rates": [["log_variance", 1.0]]},
    "uncertainty-slow": {"task.weighting": "uncertainty", "optim.role_rates": [["log_variance", 0.01]]},
    "pcgrad": {"task.weighting": "pcgrad"},
    "three-times": {"train.length": "60 epochs"},
}
SEEDS = (0, 1, 2)


def runs() -> dict[str, RunConfig]:
    """Return the configuration of every run by its name."""
    base, found = load_recipe("digits-multitask"), {}
    for seed in SEEDS:
        for name, head in HEADS.items():
            task = dataclasses.replace(base.task, heads=(head,))
            train = dataclasses.replace(base.train, depth_every=None)
            found[f"{name}-{seed}"] = dataclasses.replace(base, task=task, train=train, seed=seed)
        for weighting, changed in WEIGHTINGS.items():
            found[f"{weighting}-{seed}"] = with_values(base, changed | {"seed": seed})
    return found


def cosines(folder: Path) -> list[dict[str, object]]:
    """Return the mean cosine of every pair at every block in each third of the training, over the seeds there are."""
    rows: list[dict[str, object]] = []
    for weighting in WEIGHTINGS:
        paths = [folder / f"{weighting}-{seed}" / "task_gradients.jsonl" for seed in SEEDS]
        found = [read_task_gradients(path) for path in paths if (path.parent / "summary.json").is_file()]
        for third in range(3) if found else ():
            part = np.array_split(np.arange(len(found[0].steps)), 3)[third]
            mean = np.nanmean(np.stack([one.cosine[part] for one in found]), axis=(0, 1))
            for pair, row in zip(found[0].pairs, mean, strict=True):
                about = {"weighting": weighting, "seeds": len(found), "pair": " ".join(pair), "third": third + 1}
                rows += [
                    {**about, "block": block, "cosine": f"{value:.3f}"}
                    for block, value in zip(found[0].names, row.tolist(), strict=True)
                ]
    return rows


def table(results: dict[str, dict[str, float]]) -> str:
    """Return the means over the seeds there are, in points, and how far each task is from its network alone."""

    def points(run: str, key: str) -> np.ndarray:
        return np.array([results[f"{run}-{seed}"][key] for seed in SEEDS if f"{run}-{seed}" in results]) * 100

    def said(values: np.ndarray) -> str:
        return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")

    alone = {name: points(name, key) for name, key in HEADLINES.items()}
    lines = ["| network | seeds | digit | parity | thickness (100 R2) |", "|---|---|---|---|---|"]
    lines.append(f"| one for each task | {len(alone['digit'])} | {' | '.join(map(said, alone.values()))} |")
    for weighting in WEIGHTINGS:
        each = {name: points(weighting, key) for name, key in HEADLINES.items()}
        if len(each["digit"]):
            cells = [f"{said(values)} ({values.mean() - alone[name].mean():+.2f})" for name, values in each.items()]
            lines.append(f"| three tasks, {weighting} | {len(each['digit'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write(folder: Path, results: dict[str, dict[str, float]]) -> None:
    """Write what came out so far."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    if rows := cosines(folder):
        with (RESULTS / "cosines.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    for name in ("task_gradients.png", "curves.png", "predictions.png"):
        if (folder / "fixed-0" / name).is_file():
            shutil.copy(folder / "fixed-0" / name, RESULTS)


def main() -> None:
    """Train what is missing, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no run after so many")
    options = parser.parse_args()
    keep_freed_memory()
    began, results = time.monotonic(), {}
    for name, config in runs().items():
        summary = options.folder / name / "summary.json"
        if not summary.is_file() and time.monotonic() - began < 60 * options.minutes:
            print(name, flush=True)
            fit(config, options.folder / name)
        if summary.is_file():
            results[name] = json.loads(summary.read_text())["metrics"]
    write(options.folder, results)
    print(f"{len(results)} of {len(runs())} runs", table(results), sep="\n")


if __name__ == "__main__":
    main()
