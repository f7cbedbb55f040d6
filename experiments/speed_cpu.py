r"""Best accuracy on CIFAR-10 in 10 minutes of training on two CPU cores, compared with PyTorch at equal settings.

Claim examined: with the same network, data, augmentation, optimizer and time, this library trains on more images than
PyTorch does, and therefore reaches a higher accuracy. Each side first measures its speed for 15 seconds and then makes
as many updates as fit into the time, with the schedule over all of them. Decoding, compilation, measurement and
evaluation do not count. Both processes keep the memory they free instead of returning it to the system. On an idle
machine:

    uv run python experiments/speed_cpu.py --data FOLDER --torch PYTHON [--compile] --out experiments/results/speed-cpu

FOLDER contains train/CLASS/* and test/CLASS/*, PYTHON is an interpreter with torch; --compile has it train through
torch.compile. It takes about 25 minutes on 2 cores, of which 20 are training. To measure what each part of the recipe
is worth, with a number of images instead of the time, so that it can run next to other work:

    uv run python experiments/speed_cpu.py --data FOLDER --images 60000 --parts --out experiments/results/speed-cpu

It writes NAME.json for each side or part and adds a row to runs.csv. --smoke is a size for tests: digits, 3 updates.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.bench.processor import describe_processor
from resnet_jax.data.augmentations.crop import RandomCrop
from resnet_jax.data.augmentations.flip import AlternatingFlip, Flip, mirrored_in
from resnet_jax.data.transforms import divide
from resnet_jax.models.whitening import whitening_kernel
from resnet_jax.runs.build import RunComponents, build_evaluation, build_parts
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import RunData, load_images
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.promise import smoke_config
from resnet_jax.runs.recipes import load_about, load_recipe
from resnet_jax.runs.whitening import normalized_images
from resnet_jax.runtime.malloc import keep_freed_memory
from resnet_jax.training.state import TrainState
from resnet_jax.training.views import Views

RECIPE = "cifar10-speed-cpu"
PEER = Path(__file__).parent / "benchmarks" / "peers" / "torch_speed_peer.py"
MEASURE, MARGIN = 15.0, 0.99
#: What :func:`keep_freed_memory` does, for a process of another program (glibc, ``mallopt(3)``).
KEEP_FREED_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**62)}
#: Names of parts -> what leaves them out.
WITHOUT: dict[str, dict[str, Any]] = {
    "whole": {},
    "no-whitening": {"model.stem": "cifar"},
    "no-lookahead": {"optim.lookahead.every": None, "optim.lookahead.alpha": 0.5, "optim.lookahead.power": 0.0},
    "no-alternating-flip": {"data.augment": ("random_crop(2, border='reflect')", "flip")},
    "no-dirac": {"model.init": "kaiming_normal"},
    "no-bias-rate": {"optim.role_rates": ()},
}
COLUMNS: tuple[str, ...] = (
    "name",
    "side",
    "images",
    "steps",
    "seconds",
    "images_per_second",
    "accuracy",
    "accuracy_views",
    "date",
)


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to train: seconds of training, or a number of images.

    Attributes:
        seconds: on the clock.
        images: in their place.
    """

    seconds: float
    images: int | None = None

    def steps(self, batch: int, speed: float) -> int:
        """Return the updates that fit, at a speed in images a second."""
        return max(1, int(self.images or MARGIN * speed * self.seconds) // batch)


def of_steps(config: RunConfig, steps: int) -> RunConfig:
    """Return the configuration with another length."""
    return with_values(config, {"train.length": f"{steps} steps", "train.limit": None})


def updates(parts: RunComponents, steps: int, state: TrainState | None = None) -> Iterator[tuple[int, TrainState]]:
    """Train from the start; yield the updates made and the state after each, once that of the one before is there."""
    state = parts.new_state() if state is None else state
    before: Any = None
    for call in parts.make_feed().calls(0, steps):
        state, metrics = call.run(state)
        jax.block_until_ready(before)
        before = metrics["loss"]
        yield call.first + call.count, state


def measured_speed(parts: RunComponents, batch: int, seconds: float) -> float:
    """Return images a second, from the second update on."""
    began, first = time.perf_counter(), 0
    made = 0
    for made, _ in updates(parts, 10**6):
        now = time.perf_counter()
        if not first:
            began, first = now, made
        elif now - began >= seconds:
            break
    return (made - first) * batch / (time.perf_counter() - began)


def train_here(config: RunConfig, images: RunData, budget: Budget, measure: float) -> dict[str, Any]:
    """Train in this process; return the result."""
    batch, placement = config.train.batch_size, config.train.placed(jax.devices()[:1])
    speed = 0.0
    if budget.images is None:
        # the schedule of a length that is not known yet: its program is another one, its speed the same
        speed = measured_speed(build_parts(of_steps(config, 10**6), images, placement), batch, measure)
    total = budget.steps(batch, speed)
    parts = build_parts(of_steps(config, total), images, placement)
    began = time.perf_counter()
    for _, first in updates(parts, 1):  # compiled before the clock starts
        jax.block_until_ready(first)
    compiled = time.perf_counter() - began
    start = parts.new_state()
    jax.block_until_ready(start)
    began, made, state = time.perf_counter(), 0, start
    for done in updates(parts, total, start):
        made, state = done
        if budget.images is None and time.perf_counter() - began >= budget.seconds:
            break
    jax.block_until_ready(state)
    seconds = time.perf_counter() - began
    return {
        "measured_images_per_second": speed or None, "planned_steps": total, "steps": made, "seconds": seconds,
        "images": made * batch, "images_per_second": made * batch / seconds, "first_step_seconds": compiled,
        "accuracy": accuracy(config, parts, images, state), "threads": len(os.sched_getaffinity(0)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
    }  # fmt: skip


def accuracy(config: RunConfig, parts: RunComponents, images: RunData, state: TrainState) -> dict[str, float]:
    """Return the accuracy on the test images as they are, and over their views."""
    test, found = images.splits.test, {}
    assert test is not None
    shown: dict[str, Views] = {"plain": "none", "views": "flip_shift"}
    for name, views in shown.items():
        evaluate = build_evaluation(config, parts.model, images.card, parts.placement, views=views)
        found[name] = evaluate(state.eval_variables, test).accuracy
    return found


def specification(config: RunConfig, budget: Budget, measure: float, *, compile: bool) -> dict[str, Any]:
    """Return what the PyTorch side is told: the choices of the network, the optimizer and the schedule as numbers."""
    network, optim, schedule = config.model.config(num_classes=10), config.optim, config.optim.schedule
    needed = {
        "stem": "whiten",
        "transition": "conv_pool",
        "norm": "batch",
        "order": None,
        "head_pool": "max",
        "init": "dirac",
    }
    if other := [
        f"{name} {getattr(network, name)}" for name, value in needed.items() if getattr(network, name) != value
    ]:
        raise SystemExit(f"the PyTorch side has no network with {', '.join(other)}")
    transforms = divide(config.data.augment).device
    crops = [transform for transform in transforms if isinstance(transform, RandomCrop)]
    flips = {AlternatingFlip: "alternating", Flip: "random"}
    flip = next((flips[type(transform)] for transform in transforms if type(transform) in flips), "none")
    names = ("widths", "stage_sizes", "block", "shortcut", "activation", "norm_eps", "norm_momentum", "logit_scale")
    steps = None if budget.images is None else budget.steps(config.train.batch_size, 0.0)
    return {
        **{name: getattr(network, name) for name in names},
        "num_classes": network.num_classes, "batch_size": config.train.batch_size, "seed": config.seed,
        "pad": crops[0].pad if crops else 0, "flip": flip, "label_smoothing": config.task.label_smoothing,
        "learning_rate": optim.learning_rate, "momentum": optim.momentum, "weight_decay": optim.weight_decay,
        "norm_bias_rate": dict(optim.role_rates).get("norm_bias", 1.0), "lookahead_every": optim.lookahead.every,
        "lookahead_alpha": optim.lookahead.alpha, "lookahead_power": optim.lookahead.power,
        "peak": float(str(schedule.peak).rstrip("%")) / 100, "div_factor": schedule.div_factor,
        "final_div_factor": schedule.final_div_factor, "threads": len(os.sched_getaffinity(0)), "compile": compile,
        "seconds": budget.seconds, "steps": steps, "measure_seconds": measure, "margin": MARGIN,
    }  # fmt: skip


def write_arrays(images: RunData, window: int, path: Path) -> None:
    """Write the decoded images, what is subtracted and divided by, and the whitening kernel, for the PyTorch side."""
    train, test = training_images(images, "train"), training_images(images, "test")
    index = np.arange(len(train[1]))
    np.savez(
        path,
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        mean=np.asarray(images.card.mean),
        std=np.asarray(images.card.std),
        mirrored_first=np.asarray(mirrored_in(index, np.zeros_like(index))),
        whitening=whitening_kernel(normalized_images(images), window),
    )


def training_images(images: RunData, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a split, uint8 (N, H, W, C), and their labels, int64."""
    records = getattr(images.splits, split)
    pixels = np.stack([records[index]["image"] for index in range(len(records))])
    return pixels, records.labels.astype(np.int64)


def train_there(config: RunConfig, images: RunData, spec: Mapping[str, Any], interpreter: str) -> dict[str, Any]:
    """Train in the other interpreter; return the result."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("spec.json", "data.npz", "result.json")]
        files[0].write_text(json.dumps(spec))
        write_arrays(images, config.model.config().whiten_window, files[1])
        command = [interpreter, str(PEER), *map(str, files)]
        subprocess.run(command, env={**os.environ, **KEEP_FREED_MEMORY}, check=True)
        return json.loads(files[2].read_text())


def write(out: Path, name: str, side: str, config: RunConfig, result: dict[str, Any]) -> None:
    """Write the result as JSON, with the machine and the configuration, and its row."""
    out.mkdir(parents=True, exist_ok=True)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    about = {
        "name": name, "side": side, "date": date, "machine": describe_processor(),
        "network": config.model.to_dict(), "augment": list(config.data.augment),
        "optim": dataclasses.asdict(config.optim), "batch_size": config.train.batch_size, "seed": config.seed,
    }  # fmt: skip
    (out / f"{name}.json").write_text(json.dumps({**about, **result}, indent=2) + "\n")
    table, row = out / "runs.csv", {**result, "name": name, "side": side, "date": date}
    row |= {"accuracy": result["accuracy"]["plain"], "accuracy_views": result["accuracy"]["views"]}
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        if new:
            writer.writeheader()
        writer.writerow(row)
    figures = {name: round(value, 4) for name, value in result["accuracy"].items()}
    print(f"{name}: {figures}, {result['images']:,} images in {result['seconds']:.0f} s")


def main(argv: list[str] | None = None) -> None:
    """Run the sides or the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with train/CLASS/* and test/CLASS/*")
    parser.add_argument("--torch", help="interpreter with PyTorch; without, only this library's side runs")
    parser.add_argument("--compile", action="store_true", help="PyTorch through torch.compile")
    parser.add_argument("--seconds", type=float, default=600.0, help="of training, a side")
    parser.add_argument("--images", type=int, help="to train on, in place of the seconds")
    parser.add_argument("--measure", type=float, default=MEASURE, help="seconds in which the speed is measured")
    parser.add_argument("--parts", action="store_true", help="this library's side without each part of the recipe")
    parser.add_argument("--only", action="append", choices=("ours", "torch", *WITHOUT), help="of the sides or parts")
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=JSON", help="such as model.widths=[32,64]"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="", help="added to the names of the files")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    keep_freed_memory()
    config = load_recipe(RECIPE)
    if args.smoke:
        about = load_about(RECIPE)
        assert about is not None
        config, args.images = smoke_config(config, about, RECIPE), 3 * 64
    elif args.data is None:
        parser.error("give --data")
    else:
        config = with_values(config, {"data.source": f"folder:{args.data}"})
    changes = {option: json.loads(value) for option, _, value in (text.partition("=") for text in args.set)}
    config = with_values(config, {"seed": args.seed, **changes})
    budget, images = Budget(args.seconds, args.images), load_images(config)
    sides = [name for name in (WITHOUT if args.parts else ("ours", "torch")) if name in (args.only or (name,))]
    for name in sides:
        named = f"{name}{'-compiled' * (name == 'torch' and args.compile)}{args.name}"
        if name == "torch":
            if args.torch is not None:
                spec = specification(config, budget, args.measure, compile=args.compile)
                write(args.out, named, "torch", config, train_there(config, images, spec, args.torch))
            continue
        own = with_values(config, WITHOUT.get(name, {}))
        result = train_here(own, images, budget, args.measure)
        assert math.isfinite(result["accuracy"]["plain"])
        write(args.out, named, "ours", own, result)


if __name__ == "__main__":
    main()
