"""Contact sheets of one data set of each kind, drawn by ``resnet-jax data show``.

Claim: masks and boxes move with their images, mixed labels have the visible shares, and audio, series and volumes are
shown as what they are. The sheets are meant to be looked at.

    python experiments/data_sheets.py --data FOLDER --out experiments/results/data/sheets

FOLDER contains, unpacked, ``cifar10`` (train and test folders), ``imagenet-samples``, ``camvid``, ``bccd``,
``spoken-digits``, ``timeseries`` and ``adrenalmnist3d-train-val.npz``. Missing data sets are reported and skipped.
``--all`` also draws those whose terms forbid publishing their images (CamVid, ImageNet). A picture is reduced to 256
colors, or to 128 if it still has 200 kB. It takes a minute on two CPU cores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from resnet_jax.cli.main import run

#: Name -> words of ``data show``; {data} is the folder, {classes} a file of CamVid's class names.
SHEETS: dict[str, list[str]] = {
    "cifar10": [
        *("cifar10-resnet20", "--data.source", "folder:{data}/cifar10", "--count", "6"),
        *("--data.augment", "random_crop(4)", "flip", "cutout(16)", "mixup(0.5)"),
    ],
    "bccd": [
        *("voc:{data}/bccd", "--data.image-size", "224", "--count", "6"),
        *("--data.augment", "random_resized_crop", "flip"),
    ],
    "osuleaf": [
        *("ucr:{data}/timeseries/OSULeaf", "--count", "4"),
        *("--data.augment", "jitter(0.05)", "scaling(0.2)", "time_stretch(0.8, 1.25)"),
    ],
    "spoken-digits": [
        *("wav:{data}/spoken-digits/recordings", "--data.class-pattern", "^([0-9])_", "--count", "4"),
        *("--data.group-by", "^[0-9]_([a-z]+)_", "--data.signal-length", "8000"),
        *("--data.augment", "time_mask(800)", "jitter(0.01)"),
    ],
    "adrenalmnist3d": [
        *("volumes:{data}/adrenalmnist3d-train-val.npz", "--count", "6"),
        *("--data.augment", "random_crop(2)", "flip"),
    ],
}
#: Not to be published.
PRIVATE: dict[str, list[str]] = {
    "camvid": [
        *("masks:{data}/camvid", "--data.image-size", "224", "--data.void-value", "11", "--count", "6"),
        *("--data.class-list", "{classes}", "--data.augment", "random_resized_crop", "flip"),
    ],
    "imagenet": [
        *("folder:{data}/imagenet-samples", "--split", "all", "--data.image-size", "224", "--count", "6"),
        *("--data.augment", "random_resized_crop", "flip", "colour_jitter(brightness=0.4, saturation=0.4)"),
    ],
}
#: Bytes of a picture that is committed.
MOST = 200_000
CAMVID = "sky building pole road pavement tree sign fence car pedestrian bicyclist"


def reduce_colours(path: Path) -> None:
    """Write a picture again with fewer colours."""
    from PIL import Image

    with Image.open(path) as picture:
        pixels = picture.convert("RGB")
    for colours in (256, 128):
        pixels.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < MOST:
            break


def main() -> None:
    """Draw all sheets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        classes = Path(folder) / "classes.txt"
        classes.write_text(CAMVID.replace(" ", "\n"))
        for name, words in {**SHEETS, **(PRIVATE if given.all else {})}.items():
            out = given.out / f"{name}.png"
            filled = [word.replace("{data}", str(given.data)).replace("{classes}", str(classes)) for word in words]
            if run(["data", "show", *filled, "--out", str(out)]) != 0:
                print(f"{name} is left out")
                continue
            reduce_colours(out)
            print(f"{out}: {out.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
