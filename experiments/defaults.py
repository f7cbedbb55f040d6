r"""What `resnet-jax train --data PATH` chooses by itself, and what comes out: seven data sets of five kinds.

    uv run python experiments/defaults.py --shared ../shared/data --work /tmp/defaults

makes the data sets in `--work` (digits as PNG files and as arrays, 200 CIFAR-10 images a class as JPEG files, ImageNet
samples as animals and things, two sets of signals, volumes), runs the command on each and writes
experiments/results/defaults.md. A run that is finished is not run again. Where `OPTIONS` shorten a run (this was a
machine of two cores, shared with other work), the table says so; everything else is the command's own choice.
Two CPU cores, no accelerator: about 20 minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import yaml
from sklearn.datasets import load_digits

OPTIONS = {"cifar10": ["--train.length", "12 epochs"], "adrenal.npz": ["--train.length", "8 epochs"]}
ANIMALS = 398  # classes of ImageNet before this one are animals


def make_digits(root: Path, _: Path) -> None:
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # pyright: ignore
    labels = digits.target  # pyright: ignore
    np.savez(root / "digits.npz", x=images, y=labels)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        (root / "digits" / str(label)).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "digits" / str(label) / f"{index:04}.png"), image)


def make_cifar10(root: Path, shared: Path, train: int = 200, test: int = 100) -> None:
    with tarfile.open(shared / "cifar10-jpeg.tar.xz", "r|xz") as tar:
        for member in tar:
            parts = member.name.split("/")
            if len(parts) == 4 and int(Path(parts[3]).stem) < (train if parts[1] == "train" else test):
                tar.extract(member, root, filter="data")


def make_photographs(root: Path, shared: Path) -> None:
    wnids = (shared / "imagenet_synsets.txt").read_text().split()
    with tarfile.open(shared / "imagenet-samples-100.tar") as tar:
        tar.extractall(root, filter="data")
    for image in sorted((root / "imagenet-samples").glob("*/*.JPEG")):
        kind = "animal" if wnids.index(image.parent.name) < ANIMALS else "thing"
        (root / "photographs" / kind).mkdir(parents=True, exist_ok=True)
        shutil.move(image, root / "photographs" / kind / image.name)


def make_signals(root: Path, shared: Path) -> None:
    with tarfile.open(shared / "timeseries.tar.xz", "r:xz") as tar:
        tar.extractall(root, filter="data")
    for name in ("GunPoint", "OSULeaf"):
        arrays = {}
        for split in ("train", "test"):
            lines = (root / "timeseries" / name / f"{name}_{split.upper()}.ts").read_text().splitlines()
            rows = [line.rpartition(":") for line in lines if line[:1] not in ("#", "@", "")]
            values = [[float(value) for value in row[0].split(",")] for row in rows]
            arrays[f"x_{split}"] = np.array(values, np.float32)[..., None]
            arrays[f"y_{split}"] = np.array([int(row[2]) - 1 for row in rows])
        np.savez(root / f"{name}.npz", **arrays)


def make_volumes(root: Path, shared: Path) -> None:
    with np.load(shared / "adrenalmnist3d-train-val.npz") as f:
        splits = {"train": "train", "test": "val"}
        x = {f"x_{ours}": f[f"{theirs}_images"][..., None] for ours, theirs in splits.items()}
        np.savez(root / "adrenal.npz", **x, **{f"y_{o}": f[f"{t}_labels"].ravel() for o, t in splits.items()})


def row(name: str, root: Path) -> str:
    command = [sys.executable, "-m", "resnet_jax", "train", "--data", name, *OPTIONS.get(name, []), "--json"]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    out = json.loads(done.stdout)
    config = yaml.safe_load((root / out["run_dir"] / "config.yaml").read_text())
    card = json.loads((root / out["run_dir"] / "data.json").read_text())
    model, train, data = config["model"], config["train"], config["data"]
    shape, stem = "x".join(map(str, card["image_shape"])), f" stem {model['stem']}" if "stem" in model else ""
    network = f"{model['name']}{stem} at {shape}"
    length = train["length"] + (" (given)" if name in OPTIONS else "")
    cells = [name, card["examples"]["train"], network, " ".join(data["augment"]) or "none", length, train["batch_size"]]
    tested = f"{out['test_accuracy']:.1%} ({out['test_correct']} of {out['test_examples']})"
    return "| " + " | ".join(map(str, [*cells, train["select"], tested, f"{out['seconds']:.0f} s"])) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "made").exists():
        for make in (make_digits, make_photographs, make_signals, make_volumes, make_cifar10):
            make(args.work, args.shared)
        (args.work / "made").touch()
    names = ("digits", "digits.npz", "GunPoint.npz", "OSULeaf.npz", "photographs", "cifar10", "adrenal.npz")
    rows = [row(name, args.work) for name in names if not args.only or name in args.only]
    head = "| data | trained on | network | augmentation | length | batch | state tested | test accuracy | time |"
    table = "\n".join([head, "|---" * 9 + "|", *rows])
    (Path(__file__).parent / "results" / "defaults.md").write_text(f"{TITLE}\n{table}\n")
    print(table)


TITLE = """# `resnet-jax train --data PATH`, without a recipe

Made by [experiments/defaults.py](../defaults.py), which says what the sets are, on two CPU cores.
"""

if __name__ == "__main__":
    main()
