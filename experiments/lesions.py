"""Lesions of two trained networks: residual networks behave like ensembles of relatively shallow paths.

Claim (Veit et al. 2016, arXiv 1605.06431): removing one residual block of a trained network costs little, unless the
block changes the shape (their fig. 3); the error grows smoothly with the number of removed blocks (fig. 5a) and with
how far their order is disturbed (fig. 5b); most of the gradient comes back through short paths (fig. 6).

Reduced: the paper's network has 54 blocks (ResNet-110) and all 10,000 test images. Here they are the pretrained
ResNet-20 (9 blocks) and ResNet-44 (21 blocks) of akamaster/pytorch_resnet_cifar10, with option A shortcuts, and the
first 1,017 test images of CIFAR-10, pixel-exact. Nothing is trained.

    python experiments/lesions.py --weights FOLDER --images cifar10-test-lossless-1017.npz

FOLDER contains resnet20-12fca82f.th and resnet44-014dd654.th. It takes about 10 minutes on two CPU cores. Expected: the
whole networks classify 932 and 950 of 1,017 images correctly; results in experiments/results/lesions.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.depth import delete_blocks, path_lengths, permute_blocks
from resnet_jax.models import create_model
from resnet_jax.report.canvas import BLUE, VERMILION, new_figure
from resnet_jax.runs.directory import describe_environment
from resnet_jax.runtime.malloc import keep_freed_memory
from resnet_jax.weights import load_state_dict, to_variables

NETS = {"resnet20_cifar": "resnet20-12fca82f.th", "resnet44_cifar": "resnet44-014dd654.th"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OUT = Path(__file__).parent / "results" / "lesions"
TITLES = {"resnet20_cifar": "ResNet-20", "resnet44_cifar": "ResNet-44"}
STYLES = {
    "resnet20_cifar": {"color": BLUE, "marker": "o"},
    "resnet44_cifar": {"color": VERMILION, "marker": "s", "ls": "--"},
}


def study(name: str, weights: Path, images: np.ndarray, labels: np.ndarray, draws: int) -> dict[str, Any]:
    """Return what is left of one network under every lesion, and where its gradient comes through."""
    model = create_model(name)
    variables = to_variables(load_state_dict(weights), model)
    blocks = model.config.num_blocks
    how: dict[str, Any] = {"draws": draws, "batch_size": 256}
    counts = [k for k in (1, 2, 3, 4, 6, 8, 10, 14) if k < blocks]
    deletions = delete_blocks(model, variables, images, labels, counts=counts, **how)
    permutations = permute_blocks(model, variables, images, labels, swaps=(1, 2, 4, 8, 16), **how)
    paths = path_lengths(model, variables, images[:128], labels[:128], draws=4 * draws)
    return {
        "blocks": blocks,
        "names": list(deletions.names),
        "stages": deletions.stages.tolist(),
        "images": len(images),
        "correct": round(deletions.whole_accuracy * len(images)),
        "accuracy": deletions.whole_accuracy,
        "without_block": deletions.accuracy.tolist(),
        "counts": deletions.counts.tolist(),
        "without_several": deletions.several_accuracy.tolist(),
        "swaps": permutations.swaps.tolist(),
        "correlation": permutations.correlation.tolist(),
        "permuted": permutations.accuracy.tolist(),
        "path_lengths": paths.lengths.tolist(),
        "path_log_norm": paths.log_norm.tolist(),
        "path_share_of_paths": np.exp(paths.log_paths - blocks * np.log(2)).tolist(),
        "path_contribution": paths.contribution.tolist(),
        "effective_lengths": paths.effective_lengths(),
    }


def shape_changers(names: list[str]) -> list[int]:
    """Return the depth index of the blocks that change the shape: the first of every stage but the first."""
    return [i for i, name in enumerate(names) if name.endswith("/block0") and not name.startswith("stage1/")]


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the four panels of the study."""
    figure = new_figure((9.0, 7.2))
    (single, several), (order, lengths) = figure.subplots(2, 2)
    for name, found in results.items():
        style = {"label": f"{TITLES[name]} ({found['blocks']} blocks)", "ms": 4, **STYLES[name]}
        error = 100 * (1 - np.asarray(found["without_block"]))
        single.plot(np.linspace(0, 1, found["blocks"]), error, **style)
        starts = shape_changers(found["names"])
        single.plot(np.asarray(starts) / (found["blocks"] - 1), error[starts], "k*", ms=9, zorder=3)
        several_error = 100 * (1 - np.asarray(found["without_several"]))
        several.errorbar(
            100 * np.asarray(found["counts"]) / found["blocks"],
            several_error.mean(1),
            several_error.std(1),
            capsize=2,
            **style,
        )
        flat = {key: value for key, value in style.items() if key != "ls"}
        order.plot(np.ravel(found["correlation"]), 100 * (1 - np.ravel(found["permuted"])), ls="", **flat)
        gradient = {**style, "label": f"{TITLES[name]}: share of the gradient"}
        lengths.plot(found["path_lengths"], 100 * np.asarray(found["path_contribution"]), **gradient)
        shape = {key: value for key, value in style.items() if key not in ("label", "marker", "ms")}
        shape["label"] = f"{TITLES[name]}: share of all paths"
        lengths.plot(found["path_lengths"], 100 * np.asarray(found["path_share_of_paths"]), alpha=0.4, **shape)
    single.plot([], [], "k*", ms=9, label="block changes the shape")
    draws = np.shape(next(iter(results.values()))["without_several"])[1]
    single.set(xlabel="block removed (0: first, 1: last)", ylabel="test error, %")
    several.set(xlabel="share of the blocks removed, %", ylabel="test error, %")
    order.set(xlabel="rank correlation with the trained order (Kendall's tau)", ylabel="test error, %")
    lengths.set(xlabel="residual branches on the path", ylabel="share, %")
    titles = (
        "One block removed",
        f"Several blocks removed\n(mean and standard deviation of {draws} random choices)",
        "Blocks of equal shape exchanged\n(one point for each random order)",
        "Where the gradient comes through,\nby the length of the path",
    )
    for axes, title in zip((single, several, order, lengths), titles, strict=True):
        axes.set_title(title, fontsize=10.5)
    images = next(iter(results.values()))["images"]
    figure.suptitle(f"Trained residual networks without some of their blocks, {images:,} test images", fontsize=12)
    for axes in (single, several, order, lengths):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    single.set_ylim(top=92)  # room for the legend
    single.legend(frameon=False, fontsize=8, loc="upper right")
    figure.savefig(path, dpi=145, facecolor="white")


def table(results: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    rows = [
        "| network | correct images, intact | error, intact | error without one identity block, worst "
        "| error without one identity block, median | error without one shape-changing block "
        "| error without a third of the blocks | path lengths carrying 95 % of the gradient |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        error = 100 * (1 - np.asarray(found["without_block"]))
        first = np.isin(np.arange(found["blocks"]), shape_changers(found["names"]))
        third = int(np.argmin(np.abs(np.asarray(found["counts"]) - found["blocks"] / 3)))
        several = 100 * (1 - np.asarray(found["without_several"][third]))
        low, high = found["effective_lengths"]
        rows.append(
            f"| {name} | {found['correct']} of {found['images']} | {100 * (1 - found['accuracy']):.1f} % "
            f"| {error[~first].max():.1f} % | {np.median(error[~first]):.1f} % "
            f"| {', '.join(f'{e:.1f}' for e in error[first])} % "
            f"| {several.mean():.1f} +- {several.std():.1f} % ({found['counts'][third]} blocks) "
            f"| {low} to {high} of {found['blocks']} branches |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    """Run the study and write its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--most", type=int, default=None, help="images to look at (default: all)")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    keep_freed_memory()
    with np.load(options.images) as file:
        pixels, labels = file["x"][: options.most], file["y"][: options.most]
    images = ((pixels / np.float32(255) - np.asarray(MEAN)) / np.asarray(STD)).astype(np.float32)
    results = {name: study(name, options.weights / file, images, labels, options.draws) for name, file in NETS.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    packages = describe_environment()["packages"]
    record = {
        "command": "python experiments/lesions.py --weights FOLDER --images cifar10-test-lossless-1017.npz",
        "date": str(datetime.date.today()),
        "packages": {name: packages[name] for name in ("jax", "flax", "numpy")},
        "device": jax.devices()[0].device_kind,
        "networks": results,
    }
    (options.out / "lesions.json").write_text(json.dumps(record) + "\n")
    (options.out / "table.md").write_text(table(results))
    draw(results, options.out / "lesions.png")
    print(table(results))


if __name__ == "__main__":
    main()
