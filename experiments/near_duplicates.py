"""Which changes of an image `resnet-jax data check` still recognizes as the same picture, with its default thresholds.

    python experiments/near_duplicates.py --cifar FOLDER/cifar10 --photographs FOLDER/imagenet-samples

1,000 training images of CIFAR-10 (32 x 32) and 102 photographs of ImageNet are changed in 14 ways. The result is how
often an image and its changed copy count as near-duplicates: at most 6 of 64 bits of their hashes differ, and their
small grayscale images correlate by at least 0.985. It takes 20 s on two CPU cores. Expected: all copies at JPEG quality
75, at least 94 % at JPEG quality 30 and after changes of brightness, hardly any after a crop of 3 % on each side, and
no flipped ones; results in experiments/results/data/near-duplicates.md. The number of different pictures that pass is
in check-images.txt there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from resnet_jax.data import load_dataset
from resnet_jax.data.check_hash import LIKENESS, NEAR, hashes_of, likeness, small_grey, thumbs_of

OUT = Path(__file__).parent / "results" / "data" / "near-duplicates.md"
COUNT = 1_000

Change = Callable[[np.ndarray], np.ndarray]


def jpeg(quality: int) -> Change:
    """Return a change: saved as JPEG."""

    def change(image: np.ndarray) -> np.ndarray:
        data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))

    return change


def resized(factor: float) -> Change:
    """Return a change: another size."""
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return lambda image: np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=how))


def levels(scale: float, shift: float = 0.0) -> Change:
    """Return a change: values scaled and shifted."""
    return lambda image: np.clip(image.astype(float) * scale + shift, 0, 255).astype(np.uint8)


def noise(image: np.ndarray) -> np.ndarray:
    """Return the image with normal noise of deviation 5."""
    return np.clip(image + np.random.default_rng(0).normal(0, 5, image.shape), 0, 255).astype(np.uint8)


def cut(image: np.ndarray) -> np.ndarray:
    """Return the image without 3 % on each side, at least a pixel."""
    down, right = (max(1, side * 3 // 100) for side in image.shape[:2])
    return image[down:-down, right:-right]


CHANGES: dict[str, Change] = {
    "JPEG, quality 90": jpeg(90),
    "JPEG, quality 75": jpeg(75),
    "JPEG, quality 50": jpeg(50),
    "JPEG, quality 30": jpeg(30),
    "brighter by 30 levels": levels(1, 30),
    "values times 1.2": levels(1.2),
    "values times 0.7": levels(0.7),
    "half the size": resized(0.5),
    "twice the size": resized(2),
    "grayscale": lambda image: np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[..., None],
    "noise with standard deviation 5": noise,
    "3 % cropped on each side": cut,
    "flipped horizontally": lambda image: image[:, ::-1],
    "flipped vertically": lambda image: image[::-1],
}


def found(images: list[np.ndarray], change: Change) -> float:
    """Return how many of the images are a near duplicate of their changed copy, as a share."""
    both = [*images, *(np.ascontiguousarray(change(image)) for image in images)]
    grey = np.stack([small_grey(image) for image in both])
    hashes, thumbs, count = hashes_of(grey), thumbs_of(grey), len(images)
    first = np.arange(count)
    close = np.bitwise_count(hashes[:count] ^ hashes[count:]) <= NEAR
    return float((close & (likeness(thumbs, first, first + count) >= LIKENESS)).mean())


def main() -> None:
    """Change the images, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cifar", type=Path, required=True, help="folder with train/CLASS/*.jpg")
    parser.add_argument("--photographs", type=Path, required=True, help="folder with CLASS/*.JPEG")
    options = parser.parse_args()
    train = load_dataset(f"folder:{options.cifar}").splits["train"]
    photographs = load_dataset(f"folder:{options.photographs}").splits["all"]
    chosen = np.random.default_rng(0).choice(len(train), COUNT, replace=False)
    small = [train[int(index)]["image"] for index in chosen]
    large = [photographs[index]["image"] for index in range(len(photographs))]
    rows = [f"| {name} | {found(small, how):.1%} | {found(large, how):.1%} |" for name, how in CHANGES.items()]
    text = (
        "# Near duplicates found by `data check`\n\n"
        "The share of images whose altered copy `data check` recognizes: "
        f"hashes differ in at most {NEAR} of 64 bits, and\n"
        f"the correlation is at least {LIKENESS}. Made by `experiments/near_duplicates.py`.\n\n"
        f"| alteration | {COUNT:,} of CIFAR-10 | {len(large)} photographs |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
