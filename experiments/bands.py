"""Start a network for many 16-bit bands from a network for color images: how much is each way to start worth?

    python experiments/bands.py [--out experiments/results/bands] [--seeds 3]

The data is composed, not measured: scikit-learn's digits as scenes with six bands of 16 bits, like those of satellites.
Ground and digit are two materials whose reflectance, drawn for each scene, differs between bands, most in the near
infrared (band 4); bands 3, 2 and 1 are red, green and blue. A small ResNet learns the digits from these three colors,
on one half of the digits. Networks for all six bands then start from it, on 200 scenes of the other half: from scratch,
with the average of its first kernels (``init_stem mean``), with these kernels in turn (``repeat``), and with each
kernel at its color (``bands``, others zero). The result is the accuracy on the test scenes after 60 epochs, mean and
deviation over the seeds, in ``bands.json``; every run draws scenes (``examples.png``). It takes a few minutes on two
CPU cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from resnet_jax import RunConfig, fit
from resnet_jax.data import load_dataset
from resnet_jax.runs.defaults import with_values

COLOURS = (3, 2, 1)
#: How much brighter a digit is than the ground in each band, of the whole range; how much that varies by scene.
CONTRAST, VARIES = np.array([0.05, 0.08, 0.1, 0.1, 0.35, 0.2]), 0.5
NOISE, FULL = 0.03, 10_000
STARTS = {
    "nothing": {},
    "mean": {"init_stem": "mean"},
    "repeat": {"init_stem": "repeat"},
    "bands": {"init_stem": "bands", "init_bands": list(COLOURS)},
}
BASE = {
    "model.name": "resnet20_cifar", "model.stage_sizes": [1, 1], "model.widths": [16, 32], "train.batch_size": 50,
    "optim.name": "sgd", "optim.learning_rate": 0.05, "optim.schedule.kind": "cosine", "data.val_fraction": 0.0,
    "data.augment": ["random_crop(1)"],
}  # fmt: skip


def compose(digits: np.ndarray, seed: int) -> np.ndarray:
    """Return scenes uint16 (n, 8, 8, 6) of digits (n, 8, 8) in 0..1."""
    rng = np.random.default_rng(seed)
    ground = rng.uniform(0.1, 0.4, (len(digits), 1, 1, 6))
    contrast = CONTRAST * (1 + VARIES * rng.standard_normal((len(digits), 1, 1, 6)))
    scenes = ground + contrast * digits[..., None] + NOISE * rng.standard_normal((*digits.shape, 6))
    return np.clip(np.rint(FULL * scenes), 0, 65_535).astype(np.uint16)


def trained(arrays: dict[str, np.ndarray], run_dir: Path, **changes: object) -> float:
    """Return the test accuracy of a run of these arrays; one that is there is not made again."""
    config = with_values(RunConfig(), {**BASE, **changes})
    accuracy = fit(config, run_dir, data=arrays).summary.test_accuracy
    assert accuracy is not None
    return accuracy


def main() -> None:
    """Train all, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("experiments/results/bands"))
    parser.add_argument("--runs", type=Path, default=Path("runs/bands"), help="where the runs are; they are resumed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    digits = load_dataset("digits").splits["all"]
    pixels = np.stack([digits[index]["image"][..., 0] for index in range(len(digits))]) / 255
    order = np.random.default_rng(0).permutation(len(pixels))
    scenes, labels = compose(pixels, 1)[order], digits.labels[order]
    first, few, test = slice(0, 900), slice(900, 1100), slice(1100, None)
    tested = {"x_test": scenes[test], "y_test": labels[test]}
    colours = {"x_train": scenes[first][..., COLOURS], "y_train": labels[first]}
    source = options.runs / "colours"
    known = trained(
        {**colours, "x_test": tested["x_test"][..., COLOURS], "y_test": labels[test]},
        source,
        **{"train.length": "40 epochs"},
    )
    rows = {"colours alone, 900 scenes": [known]}
    for name, how in STARTS.items():
        start: dict[str, object] = {"data.shown_bands": list(COLOURS)}
        start |= {"init_from": str(source), **how} if how else {}
        rows[name] = [
            trained(
                {"x_train": scenes[few], "y_train": labels[few], **tested}, options.runs / f"{name}-{seed}",
                seed=seed, **{"train.length": f"{options.epochs} epochs"}, **start,
            )
            for seed in range(options.seeds)
        ]  # fmt: skip
        print(f"{name:8s} {np.mean(rows[name]):.3f} +- {np.std(rows[name]):.3f}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    table = {name: {"accuracy": found, "mean": float(np.mean(found))} for name, found in rows.items()}
    found = {"scenes": len(labels[test]), "epochs": options.epochs, "bands": list(COLOURS), "rows": table}
    (options.out / "bands.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
