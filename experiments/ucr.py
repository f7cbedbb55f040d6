r"""Time series of the UCR archive: the published ResNet and three without normalization, five seeds each.

Claims examined: the network of Wang et al. 2017 (arXiv 1611.06455) reaches the accuracy of its public code (mean and
deviation of 10 runs, result tables of hfawaz/dl-4-tsc) in far fewer updates. That code trains for 1,500 epochs with a
learning rate that halves on plateaus and tests the state with the lowest training loss; here the schedule is a cosine.
Also examined: what is left of that without normalization. The training is the recipe `ucr`. There are no published
results of these networks without norms.

    uv run python experiments/ucr.py FOLDER --out experiments/results/ucr

FOLDER contains a folder for each data set with SET_TRAIN.ts and SET_TEST.ts (or .tsv). Select data sets with `--sets
GunPoint` (default: all in FOLDER); OSULeaf needs `--length "6000 steps"`. Only the published network: `--nets
resnet_ts`. The seeds of a cell are one compiled program. Run the same command again to resume. Hardware, time and
result: experiments/results/ucr/README.md.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console

from resnet_jax.ablation.directory import Definition
from resnet_jax.ablation.grid import parse_seeds
from resnet_jax.ablation.run import ablate
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runtime.malloc import keep_freed_memory

NETS = ("resnet_ts", "fixup_resnet_ts", "skipinit_resnet_ts", "nf_resnet_ts")
#: Test accuracy of the public code, %: mean and standard deviation of 10 runs.
PUBLISHED = {
    "GunPoint": (99.07, 0.68),
    "ItalyPowerDemand": (96.30, 0.36),
    "ArrowHead": (84.46, 1.17),
    "OSULeaf": (97.85, 0.78),
}
FIELDS: tuple[str, ...] = ("set", "net", "seed", "accuracy", "parameters", "seconds of all seeds")


def train(folder: Path, nets: tuple[str, ...], seeds: str, length: str | None, out: Path) -> list[dict[str, Any]]:
    """Train all networks on one set; return a row for each run."""
    base = load_recipe("ucr")
    changed = {"data.source": f"ucr:{folder}"} | ({} if length is None else {"train.length": length})
    base = with_values(base, changed)
    named = {net: {"model.name": net} for net in nets}
    result = ablate(Definition(base=base, axes=(), named=named, seeds=parse_seeds(seeds)), out, console=Console())
    return [
        dict(zip(FIELDS, (folder.name, net, seed, value, cell["params"], round(cell["seconds"], 1)), strict=True))
        for net, cell in zip(nets, result["cells"], strict=True)
        for seed, value in cell["values"].items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Return mean and deviation of every network on every set beside the published ones, as Markdown."""
    nets = list(dict.fromkeys(row["net"] for row in rows))
    lines = [f"| set | published | {' | '.join(nets)} |", f"|---|---|{'---|' * len(nets)}"]
    for name in dict.fromkeys(row["set"] for row in rows):
        mean, deviation = PUBLISHED.get(name, (None, None))
        cells = ["" if mean is None else f"{mean:.2f} ± {deviation:.2f}"]
        for net in nets:
            values = [100 * float(row["accuracy"]) for row in rows if (row["set"], row["net"]) == (name, net)]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.2f} ± {spread:.2f}" if values else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--seeds", default="5")
    parser.add_argument("--length", help="of training, when not the recipe's: '6000 steps'")
    parser.add_argument("--runs", type=Path, default=Path("runs/ucr"), help="where the runs themselves go")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    keep_freed_memory()
    given.out.mkdir(parents=True, exist_ok=True)
    file, kept = given.out / "runs.csv", []
    if file.is_file():
        with file.open(newline="") as stream:
            kept = list(csv.DictReader(stream))
    for name in given.sets or sorted(path.name for path in given.folder.iterdir() if path.is_dir()):
        for net in given.nets:
            rows = train(given.folder / name, (net,), given.seeds, given.length, given.runs / name / net)
            kept = [row for row in kept if (row["set"], row["net"]) != (name, net)] + rows
            with file.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, FIELDS)
                writer.writeheader()
                writer.writerows(kept)
            (given.out / "table.md").write_text(table(kept))
    print(table(kept))


if __name__ == "__main__":
    main()
