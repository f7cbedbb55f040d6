"""Multi-label, regression and binary tasks from the command line, with metrics checked by scikit-learn.

Claim: `resnet-jax train`, `eval` and `predict` support these tasks as they support classes, on arrays and on tables of
files, and every metric that they report is scikit-learn's.

The data is made from the built-in digits (8x8 pixels, no download):
    labels    16x16 pictures of four quarters, each empty or one digit; the label says which of the ten digits occur
    weight    one digit; the mean stroke weight (mean of the pixels with ink, 0 to 255) and the share of pixels with ink
    yes_no    one digit; whether it has a closed loop (0, 6, 8, 9)
each as an .npz file and as a CSV manifest of PNG files.

Command (which produced the committed results):

    uv run python experiments/composed_digits.py --out experiments/results/composed_digits.md

Hardware and time: 2 CPU cores; one to three minutes for each of six runs with its evaluation.
Expected: differences from scikit-learn below 1e-5; mean average precision above 0.8, R2 above 0.6, accuracy above 97 %.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sklearn import metrics as sk

from resnet_jax.data import load_dataset

LOOPS = (0, 6, 8, 9)
SPLITS = {"train": 0.7, "val": 0.1, "test": 0.2}
PACKAGES = ("jax", "flax", "optax", "numpy", "scikit-learn")
Command = Callable[[Sequence[str]], Any]
#: At the recipe's rate of 0.1 the squared errors of values diverge within 30 steps.
RATE = ("--optim.learning-rate", "0.01", "--data.augment")
#: What scikit-learn's stubs take for a text only.
ZERO: Any = 0


@dataclasses.dataclass(frozen=True)
class Problem:
    """Pictures, what is asked of them, and how `train` is told.

    Attributes:
        name: of the problem.
        images: uint8 (N, H, W).
        labels: int (N,) or rows of 0 and 1 (N, K), or float32 (N, M).
        names: of the classes, labels or targets.
        key: of the names in an .npz file.
        options: of `train`, beside the recipe.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    key: str
    options: tuple[str, ...] = ()


def problems(count: int, seed: int = 0) -> list[Problem]:
    """Make the three problems of at most ``count`` pictures each."""
    digits = load_dataset("digits").splits["all"]
    pixels = np.stack([digits[index]["image"][..., 0] for index in range(len(digits))])
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(pixels))[:count]
    ink = pixels[chosen] > 0
    weight = pixels[chosen].sum((1, 2), dtype=np.float64) / ink.sum((1, 2))
    loops = np.isin(digits.labels[chosen], LOOPS)
    pictures, there = composed(pixels, digits.labels, count, rng)
    values = np.stack([weight, ink.mean((1, 2))], axis=1).astype(np.float32)
    return [
        Problem("labels", pictures, there, tuple("0123456789"), "label_names", ("--data.augment", "random_crop(1)")),
        Problem("weight", pixels[chosen], values, ("stroke_weight", "ink"), "target_names", RATE),
        Problem(
            "yes_no", pixels[chosen], loops.astype(np.int64), ("no", "yes"), "class_names", ("--task.kind", "binary")
        ),
    ]


def composed(
    pixels: np.ndarray, classes: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (N, 16, 16) of four quarters, half of them empty, and rows of what is in them."""
    drawn = rng.integers(0, len(pixels), (count, 4))
    full = rng.random((count, 4)) < 0.5
    quarters = pixels[drawn] * full[..., None, None].astype(np.uint8)
    pictures = quarters.reshape(count, 2, 2, 8, 8).transpose(0, 1, 3, 2, 4).reshape(count, 16, 16)
    rows = np.zeros((count, 10), np.float32)
    for place in range(4):
        np.maximum.at(rows, (np.arange(count), classes[drawn[:, place]]), full[:, place].astype(np.float32))
    return pictures, rows


def parts(count: int) -> dict[str, slice]:
    """Return which examples are in which split."""
    ends = np.cumsum([0, *(round(count * share) for share in SPLITS.values())])
    return {name: slice(int(a), int(b)) for name, a, b in zip(SPLITS, ends, [*ends[1:-1], count], strict=False)}


def write_arrays(problem: Problem, folder: Path) -> str:
    """Write an .npz file with three splits; return the source."""
    arrays: dict[str, Any] = {problem.key: np.array(problem.names)}
    for split, part in parts(len(problem.images)).items():
        arrays |= {f"x_{split}": problem.images[part], f"y_{split}": problem.labels[part]}
    path = folder / f"{problem.name}.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"


def write_manifest(problem: Problem, folder: Path) -> str:
    """Write PNG files and a table of them; return the source."""
    path, pictures = folder / f"{problem.name}.csv", folder / problem.name
    pictures.mkdir()
    columns = {"class_names": ["label"], "label_names": ["labels"]}.get(problem.key)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", *(columns or [f"value_{name}" for name in problem.names]), "split"])
        for split, part in parts(len(problem.images)).items():
            for index in range(len(problem.images))[part]:
                cv2.imwrite(str(pictures / f"{index:04}.png"), problem.images[index])
                table.writerow([f"{problem.name}/{index:04}.png", *_cells(problem, index), split])
    return f"manifest:{path}"


def _cells(problem: Problem, index: int) -> list[str]:
    row = problem.labels[index]
    match problem.key:
        case "class_names":
            return [problem.names[int(row)]]
        case "label_names":
            return [";".join(problem.names[k] for k in np.flatnonzero(row))]
        case _:
            return [repr(float(value)) for value in row]


def subprocess_command(words: Sequence[str]) -> Any:
    """Run `resnet-jax` as a person does; return what it prints with --json."""
    done = subprocess.run(
        [sys.executable, "-m", "resnet_jax", *words, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


@dataclasses.dataclass(frozen=True)
class Result:
    """What the commands reported of one source, and how far that is from scikit-learn.

    Attributes:
        summary: of `train`.
        evaluated: of `eval`.
        expected: of scikit-learn, from the outputs that `eval --logits` wrote.
        difference: the largest between the metrics of the two.
        predicted: the largest between what `predict --out` wrote and these outputs.
        minutes: of all commands together.
    """

    problem: Problem
    source: str
    summary: dict[str, Any]
    evaluated: dict[str, Any]
    expected: dict[str, float]
    difference: float
    predicted: float
    minutes: float


def study(problem: Problem, source: str, folder: Path, command: Command, options: Sequence[str]) -> Result:
    """Train on a source, evaluate, predict the files of its test split, and compare."""
    began, run = time.perf_counter(), folder / f"run-{problem.name}-{source.partition(':')[0]}"
    words = ["train", "digits", "--data.source", source, "--run-dir", str(run), *problem.options, *options]
    summary = command(words)
    logits = run / "test-outputs.npy"
    evaluated = command(["eval", str(run), "--logits", str(logits)])
    outputs = np.load(logits).astype(np.float64)
    part = parts(len(problem.images))["test"]
    card = json.loads((run / "data.json").read_text())
    expected = scikit_learn(problem, problem.labels[part], outputs, card)
    found = evaluated["metrics"]
    if set(found) != set(expected):
        raise SystemExit(f"{problem.name}: eval reports {sorted(found)}, and compared are {sorted(expected)}")
    difference = max(abs(found[name] - expected[name]) for name in expected)
    predicted = _predicted(problem, run, folder, command, outputs, card)
    return Result(
        problem, source, summary, evaluated, expected, difference, predicted, (time.perf_counter() - began) / 60
    )


def scikit_learn(problem: Problem, labels: np.ndarray, outputs: np.ndarray, card: dict[str, Any]) -> dict[str, float]:
    """Return every metric of a task by scikit-learn, from true labels and the outputs of the network."""
    match problem.key:
        case "label_names":
            yes = outputs > 0
            return {
                "map": float(sk.average_precision_score(labels, outputs)),
                "macro_auc": float(sk.roc_auc_score(labels, outputs)),
                "micro_f1": float(sk.f1_score(labels, yes, average="micro", zero_division=ZERO)),
                "macro_f1": float(sk.f1_score(labels, yes, average="macro", zero_division=ZERO)),
                "subset_accuracy": float(sk.accuracy_score(labels, yes)),
            }
        case "class_names":
            yes, score = outputs[:, 0] > 0, outputs[:, 0]
            return {
                "accuracy": float(sk.accuracy_score(labels, yes)),
                "auc": float(sk.roc_auc_score(labels, score)),
                "average_precision": float(sk.average_precision_score(labels, score)),
                "precision": float(sk.precision_score(labels, yes, zero_division=ZERO)),
                "recall": float(sk.recall_score(labels, yes)),
                "f1": float(sk.f1_score(labels, yes)),
            }
        case _:
            values = in_units(outputs, card)
            return {
                "r2": float(sk.r2_score(labels, values)),
                "rmse": float(np.mean(sk.root_mean_squared_error(labels, values, multioutput="raw_values"))),
                "mae": float(sk.mean_absolute_error(labels, values)),
            }


def in_units(outputs: np.ndarray, card: dict[str, Any]) -> np.ndarray:
    """Return outputs in the units of the targets."""
    return outputs * np.array(card["target_std"]) + np.array(card["target_mean"])


def _predicted(
    problem: Problem, run: Path, folder: Path, command: Command, outputs: np.ndarray, card: dict[str, Any]
) -> float:
    """Return the largest difference between what `predict --out` writes of the test's files and the outputs."""
    indices = range(len(problem.images))[parts(len(problem.images))["test"]]
    files = [str(folder / problem.name / f"{index:04}.png") for index in indices]
    table = run / "predictions.csv"
    command(["predict", str(run), *files, "--out", str(table)])
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if [row["image"] for row in rows] != files:
        raise SystemExit(f"{table} has not a row for each image, in order")
    if problem.key == "target_names":
        got = np.array([[float(row[name]) for name in problem.names] for row in rows])
        return float(np.abs((got - in_units(outputs, card)) / np.array(card["target_std"])).max())
    expected = 1 / (1 + np.exp(-outputs))
    if problem.key == "class_names":
        expected = np.concatenate([1 - expected, expected], axis=1)
    largest = 0.0
    for row, probabilities in zip(rows, expected, strict=True):
        ranks = [rank for rank in range(1, len(problem.names) + 1) if row[f"class_{rank}"]]
        said = {row[f"class_{rank}"]: float(row[f"probability_{rank}"]) for rank in ranks}
        likely = dict(zip(problem.names, probabilities, strict=True))
        wanted = set(problem.names)
        if problem.key == "label_names":
            wanted = {name for name, probability in likely.items() if probability > 0.5}
        if set(said) != wanted:
            raise SystemExit(f"{table}: {row['image']} has {sorted(said)}, and the outputs say {sorted(wanted)}")
        largest = max([largest, *(abs(said[name] - likely[name]) for name in said)])
    return largest


def table(results: Sequence[Result]) -> str:
    """Return the results in Markdown."""
    lines = [
        "| problem | source | headline, test | other metrics | difference from scikit-learn | `predict` vs. `eval` "
        "| minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        found, headline = result.evaluated["metrics"], result.summary["headline"]
        others = ", ".join(f"{name} {value:.4f}" for name, value in found.items() if name != headline)
        lines.append(
            f"| {result.problem.name} | {result.source.partition(':')[0]} | {headline} {found[headline]:.4f} "
            f"| {others} | "
            f"{result.difference:.1e} | {result.predicted:.1e} | {result.minutes:.1f} |"
        )
    return "\n".join(lines)


def vectors() -> str:
    """Return the widest vectors of this CPU, as Linux says them."""
    path = Path("/proc/cpuinfo")
    flags = path.read_text().split() if path.is_file() else []
    return next((name for name in ("avx512f", "avx2", "avx") if name in flags), "unknown")


def main(argv: Sequence[str] | None = None, command: Command = subprocess_command) -> list[Result]:
    """Run, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown to write")
    parser.add_argument("--count", type=int, default=1797, help="pictures of each problem")
    parser.add_argument("--folder", type=Path, help="for data and runs, which stay (default: a temporary one)")
    parser.add_argument("--only", nargs="*", default=("labels", "weight", "yes_no"), help="problems")
    parser.add_argument("train", nargs="*", help="more options of `train`, after --")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        results = []
        for problem in problems(args.count):
            if problem.name in args.only:
                for source in (write_arrays(problem, folder), write_manifest(problem, folder)):
                    results.append(study(problem, source, folder, command, args.train))
                    print(table(results[-1:]).splitlines()[-1], flush=True)
    if args.out is not None:
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
        about = f"Python {platform.python_version()}, {versions}; {vectors()}; {time.strftime('%Y-%m-%d')}"
        words = " ".join(sys.argv[1:] if argv is None else argv)
        args.out.write_text(
            "# Several labels, values, and yes or no on composed digits\n\n"
            f"`experiments/composed_digits.py {words}`\n\n{about}\n\n"
            f"{table(results)}\n",
            encoding="utf-8",
        )
    return results


if __name__ == "__main__":
    main()
