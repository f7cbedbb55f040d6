r"""The defaults that `resnet-jax train --data PATH` chooses, and their results, on seven data sets of five kinds.

    uv run python experiments/defaults.py --shared ../shared/data --work /tmp/defaults

This creates the data in `--work` (digits as PNG files and as arrays, 200 CIFAR-10 images per class as JPEG, ImageNet
samples as animals and things, signals, volumes), runs the command on each data set and writes results/defaults.md.
OPTIONS shorten two runs because the machine was shared; everything else is the command's own choice. It takes about 30
minutes on two shared CPU cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import yaml
from sklearn.datasets import load_digits

OPTIONS = {"cifar10": ["--train.length", "12 epochs"], "adrenal.npz": ["--train.length", "8 epochs"]}
NAMES = ("digits", "digits.npz", "GunPoint.npz", "OSULeaf.npz", "photographs", "cifar10", "adrenal.npz")
ANIMALS = 398  # classes of ImageNet before this one are animals
HEAD = "| data | train size | network | augmentation | length | batch size | tested state | test accuracy | time |"
TITLE = """# `resnet-jax train --data PATH`, without a recipe

Made by [experiments/defaults.py](../defaults.py), which describes the data sets, on two CPU cores shared with other
work. For comparison, the digits recipe reaches 99.2 % in 15 epochs, and Wang et al. 2017 report 99.1 and 97.9 % on
GunPoint and OSULeaf. Of the photographs, 60 % show things: 72 are too few to learn from, and the run reports that it
did no better than chance.
"""


def make_digits(root: Path) -> None:
    x, labels = load_digits(return_X_y=True)
    images = np.rint(x.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    np.savez(root / "digits.npz", x=images, y=labels)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        (root / "digits" / str(label)).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "digits" / str(label) / f"{index:04}.png"), image)


def make_images(root: Path, shared: Path, most: int = 200, tested: int = 100) -> None:
    with tarfile.open(shared / "cifar10-jpeg.tar.xz", "r|xz") as tar:
        for member in tar:
            parts = member.name.split("/")
            if len(parts) == 4 and int(Path(parts[3]).stem) < (most if parts[1] == "train" else tested):
                tar.extract(member, root, filter="data")
    wnids = (shared / "imagenet_synsets.txt").read_text().split()
    with tarfile.open(shared / "imagenet-samples-100.tar") as tar:
        tar.extractall(root, filter="data")
    for image in sorted((root / "imagenet-samples").glob("*/*.JPEG")):
        folder = root / "photographs" / ("animal" if wnids.index(image.parent.name) < ANIMALS else "thing")
        folder.mkdir(parents=True, exist_ok=True)
        image.rename(folder / image.name)


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
            arrays[f"y_{split}"] = [int(row[2]) - 1 for row in rows]
        np.savez(root / f"{name}.npz", **arrays)
    with np.load(shared / "adrenalmnist3d-train-val.npz") as f:  # its validation is the test here
        train, test = ((f[f"{split}_images"][..., None], f[f"{split}_labels"].ravel()) for split in ("train", "val"))
    np.savez(root / "adrenal.npz", x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])


def row(name: str, root: Path) -> str:
    command = [sys.executable, "-m", "resnet_jax", "train", "--data", name, *OPTIONS.get(name, []), "--json"]
    out = json.loads(subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True).stdout)
    config = yaml.safe_load((root / out["run_dir"] / "config.yaml").read_text())
    card = json.loads((root / out["run_dir"] / "data.json").read_text())
    model, train, augment = config["model"], config["train"], " ".join(config["data"]["augment"]) or "none"
    network = " ".join([*(str(value) for value in model.values()), "at", "x".join(map(str, card["image_shape"]))])
    length = train["length"] + (" (given)" if name in OPTIONS else "")
    tested = f"{out['test_accuracy']:.1%} ({out['test_correct']} of {out['test_examples']})"
    cells = [name, card["examples"]["train"], network, augment, length, train["batch_size"], train["select"], tested]
    return "| " + " | ".join(map(str, [*cells, f"{out['seconds']:.0f} s"])) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    if not args.work.exists():
        args.work.mkdir(parents=True)
        make_digits(args.work)
        make_images(args.work, args.shared)
        make_signals(args.work, args.shared)
    table = "\n".join([TITLE, HEAD, "|---" * 9 + "|", *(row(name, args.work) for name in NAMES)])
    (Path(__file__).parent / "results" / "defaults.md").write_text(f"{table}\n")
