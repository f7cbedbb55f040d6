"""How much a run's result depends on its devices: a run that moves between devices, compared with one that stays.

Every row trains the same network on the same global batches and moves it, through checkpoints, at equal intervals: to
other devices, to a sharded state, or to another execution. The stored numbers are the largest difference of the loss of
a step, and of a parameter (absolute), from the run with the same forms that stays where it started.

    uv run python experiments/elastic.py --steps 60 --json

It uses eight simulated CPU devices in one process, and the digits recipe (with ``--small`` a network of two blocks).
With ``train.forms auto``, one CPU device uses compiled C++ forms and several devices use XLA's; ``plain`` uses one form
everywhere, so only the order of sums changes. Either difference is initially a relative 1e-6 of a gradient, and
training amplifies it. The last line of ``--json`` is the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

import jax
import numpy as np

from resnet_jax.models.layout import unstack
from resnet_jax.runs.build import build_parts, iterate_feed, training_feed
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import RunData, load_images
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runtime.forms import FormsChoice
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.compile import compile_train_step


@dataclasses.dataclass(frozen=True)
class Where:
    """Where a part of a run is computed, and how."""

    devices: int
    placement: Any = "replicated"
    fsdp_devices: int | None = None
    execution: Any = "auto"

    def __str__(self) -> str:
        cut = "" if self.placement == "replicated" else f" {self.placement}{self.fsdp_devices or ''}"
        return f"{self.devices}{cut}{'' if self.execution == 'auto' else f' {self.execution}'}"


ONE, EIGHT = Where(1), Where(8)
#: Rows: forms and the way through the devices.
ROWS: tuple[tuple[FormsChoice, tuple[Where, ...]], ...] = (
    ("auto", (ONE, EIGHT, ONE)),
    ("auto", (EIGHT, Where(2), Where(4))),
    ("plain", (ONE, EIGHT, ONE)),
    ("plain", (EIGHT, Where(2), Where(4))),
    ("plain", (EIGHT, Where(8, "fsdp"), Where(4, "fsdp", 2))),
    ("plain", (Where(2, execution="unroll"), Where(2, execution="scan"), Where(2, execution="unroll"))),
)


def train(config: RunConfig, images: RunData, way: tuple[Where, ...], steps: int) -> tuple[np.ndarray, Any]:
    """Return the losses of a run that moves through ``way``, and its last parameters."""
    state: Any = None
    losses, ends = [], [steps * (index + 1) // len(way) for index in range(len(way))]
    with tempfile.TemporaryDirectory() as folder:
        for index, (where, stop) in enumerate(zip(way, ends, strict=True)):
            start = ends[index - 1] if index else 0
            here = dataclasses.replace(
                config,
                model=config.model.replace(execution=where.execution),
                train=dataclasses.replace(config.train, placement=where.placement, fsdp_devices=where.fsdp_devices),
            )
            parts = build_parts(here, images, here.train.placed(jax.devices()[: where.devices]))
            state = parts.new_state()
            if start:
                with Checkpoints(Path(folder)) as checkpoints:
                    state, _ = checkpoints.restore("last", state)
            step = compile_train_step(parts.step, parts.placement)
            for batch in iterate_feed(training_feed(here, images), here, start, stop):
                state, metrics = step(state, parts.placement.shard(batch))
                losses.append(float(metrics["loss"]))
            with Checkpoints(Path(folder)) as checkpoints:
                checkpoints.save("last", state, {"step": stop})
    return np.asarray(losses), unstack(jax.device_get(state.params))


def main() -> None:
    """Train every row and compare it with the run of its forms that stays on one device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="updates of a run")
    parser.add_argument("--rows", type=int, nargs="*", help="numbers of rows, from 0 (default: all)")
    parser.add_argument("--small", action="store_true", help="two blocks of 16 and 32 channels, compiled in seconds")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    config = load_recipe("digits")
    if options.small:
        config = dataclasses.replace(config, model=config.model.replace(stage_sizes=(1, 1), widths=(16, 32)))
    images, stays, found = load_images(config), {}, []
    for number, (forms, way) in enumerate(ROWS):
        if options.rows and number not in options.rows:
            continue
        began = time.perf_counter()
        formed = dataclasses.replace(config, train=dataclasses.replace(config.train, forms=forms))
        start = (forms, way[0])
        if start not in stays:
            stays[start] = train(formed, images, (way[0],), options.steps)
        losses, params = train(formed, images, way, options.steps)
        wanted, wanted_params = stays[start]
        apart = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, wanted_params)
        row = {
            "forms": forms,
            "way": " -> ".join(str(where) for where in way),
            "loss": float(np.abs(losses - wanted).max()),
            "last_loss": float(abs(losses[-1] - wanted[-1])),
            "params": max(jax.tree.leaves(apart)),
            "seconds": round(time.perf_counter() - began, 1),
        }
        found.append(row)
        print(
            f"{row['forms']:<6} {row['way']:<40} loss {row['loss']:.2e}, at the end {row['last_loss']:.2e}, "
            f"parameters {row['params']:.2e} ({row['seconds']:.0f} s)",
            flush=True,
        )
    if options.json:
        print(json.dumps({"steps": options.steps, "network": config.model.name, "small": options.small, "rows": found}))


if __name__ == "__main__":
    main()
