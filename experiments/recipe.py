"""Run a shipped recipe and keep what a reader needs to judge it: configuration, environment, metrics, figures, result.

Claim: the recipes train what they say. Figures, machines and dates are in results/README.md.

Commands (which produced the committed results; FOLDER contains train/ and test/ with one folder of images per class):

    uv run python experiments/recipe.py digits
    uv run python experiments/recipe.py cifar10-resnet20 --source folder:FOLDER --epochs 10 --name cifar10-resnet20-10ep
    uv run python experiments/recipe.py cifar10-adam-10ep --source folder:FOLDER --score lossless=npz:LOSSLESS.npz
    uv run python experiments/recipe.py mnist --source folder:FOLDER --seed 1 --name mnist-seed1

Repeat a command to resume an interrupted run. `--score NAME=SOURCE` also counts the correct predictions on all of some
other images, in scores.csv.

Hardware and time: 2 CPU cores; 15 seconds for digits, 6 to 12 minutes for ten epochs of CIFAR-10 with ResNet-20, 1.5
hours on an idle machine with ResNet-18, 2.5 hours for the 64,000 steps of ResNet-20, 10 minutes for MNIST.
Expected: at least 98 % on the digits' test images; at least 75 % on JPEG CIFAR-10 after ten epochs.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import shutil
from pathlib import Path

from rich.console import Console

from resnet_jax import RunConfig, evaluate_run, fit, load_recipe
from resnet_jax.runtime.malloc import keep_freed_memory

RESULTS = Path(__file__).parent / "results"
KEPT = ("config.yaml", "data.json", "environment.json", "metrics.jsonl", "curves.png", "confusion.png", "confusion.npz")


def configure(recipe: str, source: str | None, epochs: int | None, seed: int) -> RunConfig:
    """Return the recipe with what a reader's machine may force to change, and the seed."""
    config = dataclasses.replace(load_recipe(recipe), seed=seed)
    if source is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))
    if epochs is not None:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, length=f"{epochs} epochs"))
    return config


def keep(run_dir: Path, folder: Path) -> None:
    """Copy the small files of a finished run, without the paths of the machine it ran on."""
    folder.mkdir(parents=True, exist_ok=True)
    config = load_recipe(str(run_dir / "config.yaml"))
    source = config.data.source
    for name in KEPT:
        shutil.copyfile(run_dir / name, folder / name)
    summary = json.loads((run_dir / "summary.json").read_text()) | {"run_dir": folder.name}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    if source.startswith(("folder:", "npz:")):
        text = (folder / "config.yaml").read_text()
        kind, _, path = source.partition(":")
        named = Path(path).name if kind == "npz" else "FOLDER"
        (folder / "config.yaml").write_text(text.replace(source, f"{kind}:{named}"))


def score(run_dir: Path, sources: dict[str, str], folder: Path) -> None:
    """Write how many the run gets right of its test split and of all images of the other sources."""
    found = {"test": evaluate_run(run_dir)}
    found |= {name: evaluate_run(run_dir, "all", source=source) for name, source in sources.items()}
    with (folder / "scores.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["images", "correct", "examples", "accuracy", "loss"])
        for name, result in found.items():
            share = result.correct / result.examples
            rows.writerow([name, result.correct, result.examples, f"{share:.4f}", f"{result.loss:.4f}"])
            print(f"{name}: {result.correct:,} of {result.examples:,}, {100 * share:.2f} %")


def main() -> None:
    """Run and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--source", help="another data source, such as folder:PATH")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--score", action="append", default=[], metavar="NAME=SOURCE", help="other images to count on")
    parser.add_argument("--name", help="name of the folder under results (default: the recipe)")
    parser.add_argument("--run-dir", type=Path, help="where the run itself goes (default: runs/NAME)")
    args = parser.parse_args()
    keep_freed_memory()
    name = args.name or args.recipe
    run_dir = args.run_dir or Path("runs") / f"results-{name}"
    fit(configure(args.recipe, args.source, args.epochs, args.seed), run_dir, console=Console())
    keep(run_dir, RESULTS / name)
    if args.score:
        score(run_dir, dict(pair.split("=", 1) for pair in args.score), RESULTS / name)


if __name__ == "__main__":
    main()
