"""The cost of augmentation policies: on the device next to a train step, on the host next to decoding and cropping.

Claims: (1) on the device, a policy computes its three forms once instead of every operation, and is cheaper than a
`lax.switch` over the operations, of which `vmap` computes all branches; (2) on the host, an image runs only the
operations that are drawn.

    uv run python experiments/benchmarks/augmentation.py --images FOLDER --out results/augmentation.json

All programs are compiled first and run in turns in changing order; figures are medians over the turns. The
train step is ResNet-20's. It takes about 4 minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import create_model, make_mesh, shard_batch
from resnet_jax.data.augmentations.policies import BINS, rand_magnitudes
from resnet_jax.data.decode import decode_image
from resnet_jax.data.on_device import prepare_with
from resnet_jax.data.operations import OPERATIONS, apply_operation
from resnet_jax.data.rng import generator
from resnet_jax.data.transform import Geometry
from resnet_jax.data.transforms import divide
from resnet_jax.models.count import abstract_variables
from resnet_jax.runs.directory import describe_environment
from resnet_jax.runtime.malloc import keep_freed_memory
from resnet_jax.training.compile import compile_train_step, create_state
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.options import OptimConfig
from resnet_jax.training.step import make_train_step

BATCH, SIDE, LARGE = 128, 32, 224
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
#: Lists of transforms, the first of which is what all others are compared with.
DEVICE = {
    "crop and flip": ("random_crop(4)", "flip"),
    "rand_augment": ("random_crop(4)", "flip", "rand_augment(2, 9)"),
    "rand_augment of timm": ("random_crop(4)", "flip", "rand_augment(2, 9, operations='timm', std=0.5)"),
    "trivial_augment": ("random_crop(4)", "flip", "trivial_augment"),
    "auto_augment": ("random_crop(4)", "flip", "auto_augment('cifar10')"),
    "colour_jitter": ("random_crop(4)", "flip", "colour_jitter(0.4, 0.4, 0.4, 0.1)"),
    "mixup and erasing": ("random_crop(4)", "flip", "mixup(0.2)", "random_erasing(0.25)"),
}
HOST = ["rand_augment(2, 9, where='host')", "rand_augment(2, 9, operations='timm', std=0.5, where='host')"]
HOST += ["trivial_augment(where='host')", "auto_augment('imagenet', where='host')"]
HOST += ["colour_jitter(0.4, 0.4, 0.4, where='host')", "colour_jitter(0.4, 0.4, 0.4, 0.1, where='host')"]
HOST += ["gaussian_blur(23, where='host')", "rotate(-30, 30, where='host')"]


def switched(images: Any, key: Any) -> Any:
    """Return two operations of RandAugment an image, by `lax.switch` over all of them."""
    magnitudes = rand_magnitudes(BINS, SIDE, SIDE)
    branches = [
        lambda image, row=OPERATIONS[name], m=float(values[9, 0]): apply_operation(
            jnp, {"image": image}, {}, row, jnp.float32(m)
        )["image"]
        for name, values in magnitudes.items()
    ]

    def one(image: Any, key: Any) -> Any:
        for which in jax.random.randint(key, (2,), 0, len(branches)):
            image = jax.lax.switch(which, branches, image)
        return image

    return jax.vmap(one)(images, jax.random.split(key, len(images)))


def in_turns(programs: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Return the median seconds of each program, run in turns of changing order."""
    found: dict[str, list[float]] = {name: [] for name in programs}
    rng = np.random.default_rng(0)
    for program in programs.values():
        jax.block_until_ready(program())
    for _ in range(turns):
        for place in rng.permutation(len(programs)):
            name = list(programs)[place]
            start = time.perf_counter()
            jax.block_until_ready(programs[name]())
            found[name].append(time.perf_counter() - start)
    return {name: float(np.median(times)) for name, times in found.items()}


def on_device(turns: int) -> dict[str, Any]:
    """Return milliseconds a batch of each list of transforms, of the switch, and of a train step of ResNet-20."""
    rng = np.random.default_rng(0)
    key = jax.random.key(0)
    images, labels = rng.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8), rng.integers(0, 10, BATCH).astype(np.int32)
    batch = {"image": images, "label": labels, "epoch": np.zeros(BATCH, np.int32)}
    batch = jax.device_put({**batch, "index": np.arange(BATCH, dtype=np.int32)})
    programs: dict[str, Callable[[], Any]] = {}
    for name, texts in DEVICE.items():
        prepare = jax.jit(prepare_with(divide(texts).device, MEAN, STD, num_classes=10))
        programs[name] = lambda prepare=prepare: prepare(key, batch)["image"]
    switch = jax.jit(switched)
    programs["two operations by switch alone"] = lambda: switch(batch["image"], key)
    alone = jax.jit(prepare_with(divide(["rand_augment(2, 9)"]).device, MEAN, STD))
    programs["rand_augment alone"] = lambda: alone(key, batch)["image"]
    programs["train step of ResNet-20"] = train_step(images, labels)
    return {name: round(1e3 * seconds, 3) for name, seconds in in_turns(programs, turns).items()}


def train_step(images: np.ndarray, labels: np.ndarray) -> Callable[[], Any]:
    """Return a train step of ResNet-20 on normalized images, which continues from call to call."""
    model, mesh = create_model("resnet20_cifar"), make_mesh(jax.devices()[:1])
    params = abstract_variables(model, images.shape[1:])["params"]
    tx, _ = make_optimizer(OptimConfig("sgd", 0.1, weight_decay=1e-4), params, steps_per_epoch=100, total_steps=1000)
    state = [create_state(model, tx, jax.random.key(0), images.shape[1:], mesh=mesh)]
    step: Any = compile_train_step(make_train_step(model, tx), mesh)
    data = shard_batch({"image": (images / 255).astype(np.float32), "label": labels}, mesh)

    def run() -> Any:
        state[0], metrics = step(state[0], data)
        return metrics

    return run


def on_host(folder: Path, turns: int) -> dict[str, Any]:
    """Return milliseconds an image: to decode and crop it, and of each transform at 224 pixels."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))[:50]
    geometry = Geometry(LARGE, "random_resized")
    crops = [
        geometry.train_image(decode_image(path.read_bytes(), 3, str(path)), generator(0, 2, 0, i))
        for i, path in enumerate(paths)
    ]
    programs: dict[str, Callable[[], Any]] = {
        "decode and random_resized_crop": lambda: [
            geometry.train_image(decode_image(path.read_bytes(), 3, str(path)), generator(0, 2, 0, i))
            for i, path in enumerate(paths)
        ]
    }
    for text in HOST:
        transform: Any = divide([text]).before[0]
        programs[text] = lambda transform=transform: [
            transform.apply({"image": crop}, generator(0, 3, 0, i), {})["image"] for i, crop in enumerate(crops)
        ]
    return {name: round(1e3 * seconds / len(paths), 3) for name, seconds in in_turns(programs, turns).items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": describe_environment(),
        "device, ms a batch of 128 of 32x32": on_device(options.turns),
        "host, ms an image of 224x224, one thread": on_host(options.images, max(3, options.turns // 3)),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
