r"""Does `resnet-jax drift` stay silent for photographs of the same kind, and raise alarms for others?

    python experiments/drift.py RUN --cifar CIFAR10/test --mnist MNIST/test

It uses a CIFAR-10 network (recipe cifar10-adam-10ep) and its test photographs, which it was not trained on. Silent: 20
times, half of 4,000 test photographs becomes the reference, and the other half is compared with it in windows; at most
the requested 1 % of windows should raise an alarm. Alarms: the other half after changes (darker, blurred, inverted),
restricted to two classes, and MNIST's digits in three channels. Output in experiments/results/drift: drift.json,
drift.png. The network computes 5,600 images once, in 4 minutes on two cores; results are kept in --work.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from resnet_jax.data.decode import decode_image
from resnet_jax.deploy.drift import KINDS, Reference, Seen
from resnet_jax.deploy.drift_watch import look
from resnet_jax.deploy.serve.engine import Engine, open_engine
from resnet_jax.deploy.serve.options import Limits
from resnet_jax.report.canvas import PALETTE, new_figure, save_figure

OUT = Path(__file__).parent / "results" / "drift"
ALARM, HALVES, WINDOWS = 0.01, 20, (32, 128)
PHOTOGRAPHS, CHANGED = 4000, 256


def blurred(image: np.ndarray) -> np.ndarray:
    """Return an image through a Gaussian of one pixel."""
    return cv2.GaussianBlur(image, (0, 0), 1.0)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a little darker (x 0.9)": lambda image: (0.9 * image).astype(np.uint8),
    "darker (x 0.6)": lambda image: (0.6 * image).astype(np.uint8),
    "blurred (1 pixel)": blurred,
    "inverted": lambda image: 255 - image,
}


def seen(engine: Engine, images: list[np.ndarray], path: Path) -> Seen:
    """Return what is compared of images, computed once."""
    if not path.is_file():
        parts = look(engine, ((str(n), image) for n, image in enumerate(images)), Limits(), print)
        found = Seen.together(list(parts))
        np.savez(path, features=found.features, input=found.input, classes=found.classes)
    with np.load(path) as kept:
        return Seen(kept["features"], kept["input"], kept["classes"])


def photographs(folder: Path, count: int, seed: int, classes: tuple[str, ...] = ()) -> list[np.ndarray]:
    """Return some images of a folder of classes, RGB, in random order."""
    paths = sorted(path for path in folder.glob("*/*") if not classes or path.parent.name in classes)
    order = np.random.default_rng(seed).permutation(len(paths))[:count]
    return [decode_image(paths[n].read_bytes(), 3, str(paths[n])) for n in order]


def windows(reference: Reference, images: Seen, size: int) -> list[dict[str, float]]:
    """Return the ratios of every whole window."""
    starts = range(0, len(images) - size + 1, size)
    return [reference.distance(images.part(slice(start, start + size))).ratios for start in starts]


def rate(ratios: list[dict[str, float]]) -> float:
    """Return the share of windows that raise an alarm."""
    return float(np.mean([max(each.values()) > 1 for each in ratios]))


def main() -> None:
    """Compute, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("drift-work"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    OUT.mkdir(parents=True, exist_ok=True)
    engine = open_engine(given.run, (64,), watched=True)
    images = photographs(given.cifar, PHOTOGRAPHS, 0)
    same = seen(engine, images, given.work / "same.npz")
    half, classes = PHOTOGRAPHS // 2, len(engine.classes)

    def reference(of: Seen, seed: int) -> Reference:
        return Reference.of(of, classes, alarm=ALARM, source="CIFAR-10 test", digest=engine.digest, seed=seed)

    quiet: dict[int, list[float]] = {size: [] for size in WINDOWS}
    for seed in range(HALVES):
        order = np.random.default_rng(seed).permutation(PHOTOGRAPHS)
        known = reference(same.part(order[:half]), seed)
        for size in WINDOWS:
            quiet[size].append(rate(windows(known, same.part(order[half:]), size)))
    known, rest = reference(same.part(slice(half)), 0), images[half : half + CHANGED]
    others = {name: [change(image) for image in rest] for name, change in CHANGES.items()}
    others["airplanes and ships alone"] = photographs(given.cifar, CHANGED, 1, ("airplane", "ship"))
    others["MNIST's digits"] = photographs(given.mnist, CHANGED, 2)
    found = {"the same photographs": same.part(slice(half, half + CHANGED))}
    for number, (name, them) in enumerate(others.items()):
        found[name] = seen(engine, them, given.work / f"other-{number}.npz")
    rows = []
    for name, each in found.items():
        ratios = windows(known, each, 128)
        means = {kind: float(np.mean([window[kind] for window in ratios])) for kind in KINDS}
        whole = known.distance(each)
        alarms = {str(size): rate(windows(known, each, size)) for size in WINDOWS}
        rows.append({"images": name, "ratios": means, "alarms": alarms, "shift": whole.shift, "shares": whole.shares})
    counts = {size: HALVES * (half // size) for size in WINDOWS}
    false = {str(size): {"windows": counts[size], "rate": float(np.mean(rates))} for size, rates in quiet.items()}
    report = {"alarm": ALARM, "halves": HALVES, "false_alarms": false, "sets": rows}
    (OUT / "drift.json").write_text(json.dumps(report, indent=2) + "\n")
    draw(rows, OUT / "drift.png")
    print(json.dumps(report, indent=2))


WORDS = {
    "features": "features before the classifier",
    "input": "mean and deviation of the pixels",
    "classes": "predicted classes",
}
"""What is compared -> what the figure calls it."""


def draw(rows: list[dict], path: Path) -> None:
    """Draw every distance over its threshold, for every set of images."""
    figure = new_figure((7.6, 4.4))
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    for number, kind in enumerate(KINDS):
        values = [row["ratios"][kind] for row in rows]
        axes.scatter(values, places, color=PALETTE[number], marker="osD"[number], s=36, label=WORDS[kind], zorder=3)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.text(1.06, len(rows) - 0.25, "alarm →", fontsize=9, va="top")
    axes.set(xscale="log", yticks=places, yticklabels=[row["images"] for row in rows])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(-0.6, len(rows) - 0.2)
    axes.set_xlabel("distance from the reference / alarm threshold (windows of 128 images, log scale)", fontsize=9)
    axes.set_ylabel("set of images")
    title = f"How far {len(rows)} sets of images lie from the reference (test photographs of CIFAR-10)"
    figure.suptitle(title, fontsize=12)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    save_figure(figure, path, dpi=130, facecolor="white")


if __name__ == "__main__":
    main()
