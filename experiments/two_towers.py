r"""Two towers: do spoken and written digits find each other, and what do false negatives cost?

Rows, with three seeds each, are the recipe `digits-pairs` (built-in, composed) and, if audio is given, `spoken-written`
(free-spoken-digit-dataset with scikit-learn's digits), with `task.positives` class (the recipes' own) and pair (CLIP's,
where others of the class count as wrong).

    uv run python experiments/two_towers.py --out experiments/results/two_towers
    uv run python experiments/two_towers.py --out experiments/results/two_towers --sounds FOLDER

FOLDER contains <digit>_<speaker>_<take>.wav at 8 kHz. Finished runs are not repeated, and interrupted ones resume;
`--rows spoken-written/class --seeds 0` runs one of them. Hardware, time and result:
experiments/results/two_towers/README.md. Output: results.json, results.csv (a row per run), curves.json
(validation recall over training) and two_towers.png, which is drawn from it.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from resnet_jax import RunConfig, fit, load_recipe
from resnet_jax.report.canvas import PALETTE, new_figure, save_figure
from resnet_jax.report.metrics_file import read_metrics
from resnet_jax.runtime.cache import keep_compiled_programs
from resnet_jax.runtime.malloc import keep_freed_memory

ROWS = tuple(
    f"{recipe}/{positives}" for recipe in ("digits-pairs", "spoken-written") for positives in ("class", "pair")
)
POSITIVES = {"class": "all of the class", "pair": "the pair alone"}
"""``task.positives`` -> what the figure calls it."""
METRICS = (
    "class_recall1", "image_to_other_class_recall1", "other_to_image_class_recall1", "zero_shot_image",
    "zero_shot_other", "zero_shot_both", "image_to_other_pair_recall1", "temperature",
)  # fmt: skip


def config_of(row: str, seed: int, sounds: Path | None, length: str | None) -> RunConfig:
    """Return the configuration of a run."""
    name, _, positives = row.partition("/")
    config = load_recipe(name)
    data, train = config.data, config.train
    if name == "spoken-written":
        data = dataclasses.replace(data, source=f"pairs:digits+wav:{sounds}")
    if length is not None:
        train = dataclasses.replace(train, length=length)
    task = dataclasses.replace(config.task, positives=positives)
    return dataclasses.replace(config, task=task, data=data, train=train, seed=seed)


def measured(run: Path) -> dict[str, Any]:
    """Return what a finished run came to."""
    summary = json.loads((run / "summary.json").read_text())
    found = {name: summary["metrics"][name] for name in METRICS}
    return {**found, "test_examples": summary["test_examples"], "seconds": summary["seconds"]}


def curves(runs: Path, keys: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Return epoch and validation recall of every run that is there."""
    found = {}
    for key in keys:
        if (runs / key).is_dir():
            rows = [row for row in read_metrics(runs / key / "metrics.jsonl") if "val_class_recall1" in row]
            found[key] = [(row["epoch"], row["val_class_recall1"]) for row in rows]
    return found


def draw(found: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Draw the validation recall of every run, a color for each row."""
    figure = new_figure((7.5, 4.4))
    axes = figure.add_subplot()
    rows = sorted({key.rpartition("/")[0] for key in found})
    for row, colour, dash in zip(rows, PALETTE, ("-", "--", ":", "-."), strict=False):
        recipe, _, positives = row.partition("/")
        label = f"{recipe}, positives: {POSITIVES[positives]}"
        for key in (key for key in found if key.rpartition("/")[0] == row):
            epochs, recall = np.array(found[key]).T
            axes.plot(epochs, 100 * recall, color=colour, linewidth=1.2, linestyle=dash, label=label)
            label = None  # named once
    axes.set(xlabel="epoch", ylabel="validation recall@1 by class, %")
    title = "Two towers: is the nearest of the other kind of the same class? (a line for each seed)"
    figure.suptitle(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    save_figure(figure, path)


def main() -> None:
    """Train what is missing, and write what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sounds", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/two_towers"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--length", help="in place of the recipes', to try it")
    options = parser.parse_args()
    keep_compiled_programs()
    keep_freed_memory()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    rows = [row for row in options.rows if options.sounds is not None or not row.startswith("spoken")]
    for seed in options.seeds:
        for row in rows:
            key = f"{row}/{seed}"
            fit(config_of(row, seed, options.sounds, options.length), options.runs / key, console=Console())
            results[key] = measured(options.runs / key)
            path.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    with (options.out / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run", *METRICS, "test_examples", "seconds"])
        for key, found in sorted(results.items()):
            numbers = [f"{found[name]:.4f}" for name in METRICS]
            writer.writerow([key, *numbers, found["test_examples"], f"{found['seconds']:.0f}"])
    recalls = curves(options.runs, sorted(results))
    (options.out / "curves.json").write_text(json.dumps(recalls) + "\n")
    draw(recalls, options.out / "two_towers.png")
    for row in sorted({key.rpartition("/")[0] for key in results}):
        recall = [found["class_recall1"] for key, found in results.items() if key.rpartition("/")[0] == row]
        print(f"{row}: recall@1 by class {100 * np.mean(recall):.2f} +- {100 * np.std(recall):.2f} % of {len(recall)}")


if __name__ == "__main__":
    main()
