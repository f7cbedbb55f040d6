r"""By how much does fine-tuning a CIFAR ResNet-20 beat training from scratch, and a linear probe?

Claims examined: features learned on one data set are a better start for another than none (Yosinski et al. 2014, arXiv
1411.1792), and fine-tuning all of them is better than a linear classifier on them (Kornblith et al. 2019, arXiv
1805.08974). Kumar et al. 2022 (arXiv 2202.10054) say when the second claim fails: for few images that resemble the
training data.

The network is akamaster's ResNet-20 with its published CIFAR-10 weights (`weights import`). The data sets are small:

| case            | classes | training images per class | new to the network                                |
|-----------------|---------|---------------------------|---------------------------------------------------|
| jpeg-cifar-20   | 10      | 20                        | the JPEG compression; the classes are its own     |
| jpeg-cifar-100  | 10      | 100                       | the same                                          |
| camvid-patches  | 10      | 100                       | the classes: 32x32 patches of street scenes       |
| blood-cells     | 3       | 60                        | the classes and the images: cells under a microscope |

The images of JPEG CIFAR-10 all come from its test split, the last of every class for training and the first 200 for
testing: those of its training split would measure nothing, because the network has memorized them.

Every case is run with three seeds of fine-tuning, and three of training from scratch with as many updates:

    uv run python experiments/finetune_margin.py --weights resnet20-12fca82f.th --cifar FOLDER --camvid camvid.tar \
        --cells bccd.tar --out experiments/results/finetune --work WORK

FOLDER contains test/CLASS/*.jpg (JPEG CIFAR-10); cases whose data is not given are skipped. An interrupted run resumes.
Hardware, time and result: experiments/results/finetune/README.md. Expected: fine-tuning is far above training from
scratch everywhere, and above the probe where the classes are new, but hardly where they are not.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from rich.console import Console

from resnet_jax.runs.config import config_to_yaml
from resnet_jax.runs.directory import describe_environment
from resnet_jax.runs.finetune_how import HowToFinetune
from resnet_jax.runs.finetune_run import FinetuneDirectory, finetune
from resnet_jax.runs.recipes import config_from_dict
from resnet_jax.runtime.cache import keep_compiled_programs
from resnet_jax.runtime.malloc import keep_freed_memory

#: CamVid's labels by their values; 11 is void. Poles are too thin for patches.
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
SIDE = 32
Example = tuple[np.ndarray, str]


def write_set(path: Path, train: Sequence[Example], test: Sequence[Example]) -> Path:
    """Write examples as an .npz file that `--data` takes."""
    names = sorted({name for _, name in train})
    arrays: dict[str, Any] = {"class_names": np.array(names)}
    for split, examples in (("train", train), ("test", test)):
        arrays[f"x_{split}"] = np.stack([image for image, _ in examples]).astype(np.uint8)
        arrays[f"y_{split}"] = np.array([names.index(name) for _, name in examples])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def at_most(examples: Iterable[Example], count: int, seed: int = 0) -> list[Example]:
    """Return a random choice of at most so many of every class."""
    by_class: dict[str, list[Example]] = {}
    for example in examples:
        by_class.setdefault(example[1], []).append(example)
    rng = np.random.default_rng(seed)
    return [
        by_class[name][int(index)]
        for name in sorted(by_class)
        for index in rng.permutation(len(by_class[name]))[:count]
    ]


def cifar(folder: Path, part: slice) -> list[Example]:
    """Read images of every class of JPEG CIFAR-10's test split: those of the other one the network was trained on."""
    found = []
    for kind in sorted((folder / "test").iterdir()):
        for file in sorted(kind.glob("*.jpg"))[part]:
            image = cv2.imread(str(file))
            assert image is not None, file
            found.append((image[..., ::-1], kind.name))
    return found


def members(path: Path, folder: str) -> dict[str, bytes]:
    """Read the files of a folder of a tar file by their stems."""
    with tarfile.open(path) as tar:
        wanted = [one for one in tar.getmembers() if one.isfile() and Path(one.name).parent.name == folder]
        return {Path(one.name).stem: file.read() for one in wanted if (file := tar.extractfile(one)) is not None}


def decode(data: bytes, how: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """Decode an image file; colours are RGB."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    assert image is not None
    return image[..., ::-1] if image.ndim == 3 else image


def camvid(path: Path, split: str, each: int, seed: int) -> list[Example]:
    """Cut patches of 32x32 around random pixels, of which most of the middle belongs to the class of the pixel."""
    images, masks = members(path, split), members(path, f"{split}annot")
    rng, found, half = np.random.default_rng(seed), [], SIDE // 2
    for stem in sorted(images):
        image, mask = decode(images[stem]), decode(masks[stem], cv2.IMREAD_UNCHANGED)
        for value, name in enumerate(CAMVID):
            inner = mask[half:-half, half:-half]
            rows, columns = np.nonzero(inner == value)
            if name == "pole" or not len(rows):
                continue
            for pick in rng.integers(len(rows), size=each):
                y, x = int(rows[pick]) + half, int(columns[pick]) + half
                middle = mask[y - half // 2 : y + half // 2, x - half // 2 : x + half // 2]
                if (middle == value).mean() >= 0.6:
                    found.append((image[y - half : y + half, x - half : x + half], name))
    return found


def cells(path: Path, split: str) -> list[Example]:
    """Cut the boxes of blood cells out, a square each, brought to 32x32."""
    images, boxes = members(path, "JPEGImages"), members(path, "Annotations")
    found = []
    for stem in members(path, "Main")[split].decode().split():
        image = decode(images[stem])
        for thing in ElementTree.parse(io.BytesIO(boxes[stem])).iter("object"):
            box = thing.find("bndbox")
            assert box is not None
            left, top, right, bottom = (int(box.findtext(key, "0")) for key in ("xmin", "ymin", "xmax", "ymax"))
            side = max(right - left, bottom - top, 8)
            x, y = max((left + right - side) // 2, 0), max((top + bottom - side) // 2, 0)
            crop = image[y : y + side, x : x + side]
            found.append((cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA), thing.findtext("name", "")))
    return found


def make_cases(args: argparse.Namespace) -> dict[str, Path]:
    """Write the data sets that are not there yet; return those whose data was given."""
    made: dict[str, Path] = {}
    for case in args.cases:
        path = args.work / "data" / f"{case}.npz"
        kind, _, number = case.rpartition("-")
        if path.is_file():
            pass
        elif kind == "jpeg-cifar" and args.cifar:
            write_set(path, cifar(args.cifar, slice(-int(number), None)), cifar(args.cifar, slice(200)))
        elif case == "camvid-patches" and args.camvid:
            train, test = (camvid(args.camvid, split, 3, seed) for seed, split in enumerate(("train", "val")))
            write_set(path, at_most(train, 100), at_most(test, 150))
        elif case == "blood-cells" and args.cells:
            train, test = (cells(args.cells, split) for split in ("train", "val"))
            write_set(path, at_most(train, 60), at_most(test, 200))
        else:
            continue
        made[case] = path
    return made


def write_results(out: Path, tables: dict[str, dict[str, Any]]) -> None:
    """Write all rows and margins as results.csv and results.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(tables, indent=2) + "\n")
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "stage", "seed", "test_accuracy", "updates", "test_images"])
        for case, table in tables.items():
            for row in table["rows"]:
                for seed, value in enumerate(row["accuracy"]):
                    seeded = seed if row["updates"] else ""
                    count = table["test_examples"]
                    writer.writerow([case, row["stage"], seeded, f"{value:.6f}", row["updates"], count])
    (out / "environment.json").write_text(json.dumps(describe_environment(), indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="resnet20-12fca82f.th")
    parser.add_argument("--model", default="resnet20_cifar")
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--camvid", type=Path)
    parser.add_argument("--cells", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="for data sets and runs")
    parser.add_argument("--out", type=Path, required=True)
    cases = ["jpeg-cifar-20", "jpeg-cifar-100", "camvid-patches", "blood-cells"]
    parser.add_argument("--cases", nargs="+", default=cases)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--length", default="10 epochs", help="of fine-tuning and of training from scratch")
    args = parser.parse_args(argv)
    keep_freed_memory()
    keep_compiled_programs()
    tables: dict[str, dict[str, Any]] = {}
    for case, data in make_cases(args).items():
        given = {"train.length": args.length} | ({} if args.weights.is_dir() else {"model.name": args.model})
        how, out = HowToFinetune(seeds=args.seeds, scratch=True), args.work / case
        table = finetune(args.weights, data, how, out=out, given=given, console=Console())
        tables[case] = {**table.to_json(), "title": f"{args.model}, {case}"}
        known = json.loads(FinetuneDirectory(out).asked.read_text())
        args.out.mkdir(parents=True, exist_ok=True)
        kept = config_from_dict({**known["config"], "init_from": "source"}, where=case)
        text = config_to_yaml(kept).replace(str(data), f"{case}.npz")
        (args.out / f"{case}.yaml").write_text(text)
    write_results(args.out, tables)


if __name__ == "__main__":
    main()
