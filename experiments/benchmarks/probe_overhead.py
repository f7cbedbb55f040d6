"""The cost of measuring the gradient at every block inside the train step: time and memory, side by side.

Claim: a step with probes computes everything else bit for bit the same, and needs hardly more memory and at most 3 %
more time. A run that logs every tenth step (`--train.depth-every 10`) has probes only in those; the second measurement
is therefore ten steps, one of them probed, compared with ten without probes.

    uv run python experiments/benchmarks/probe_overhead.py --out experiments/results/bench/probe_overhead.json

Both programs are compiled first and run in turns in changing order. Figures are medians over the turns and, for a
machine with other work, the ratios of the shortest times and of the fewest CPU seconds. It takes about 8 minutes on two
CPU cores. Expected: experiments/results/bench/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax import create_model, make_mesh, shard_batch
from resnet_jax.instrument.hooks import BlockNames
from resnet_jax.models.count import abstract_variables
from resnet_jax.runs.directory import describe_environment
from resnet_jax.runtime.malloc import keep_freed_memory
from resnet_jax.training.compile import compile_train_step, create_state
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.options import OptimConfig
from resnet_jax.training.step import make_train_step

CASES: list[tuple[str, int, dict[str, Any], int]] = [
    ("resnet20_cifar", 128, {}, 40),
    ("resnet110_cifar", 32, {}, 12),
    ("resnet1202_cifar", 8, {"remat": "block"}, 8),
    ("resnet50", 8, {}, 6),
]


def measure(name: str, batch: int, choices: dict[str, Any], turns: int) -> dict[str, Any]:
    """Return time and memory of a step without and with probes, and whether the parameters agree to the bit."""
    model, mesh = create_model(name, **choices), make_mesh(jax.devices()[:1])
    size = 224 if name == "resnet50" else 32
    shape = (size, size, 3)
    params = abstract_variables(model, shape)["params"]
    tx, _ = make_optimizer(OptimConfig("sgd", 0.1, weight_decay=1e-4), params, steps_per_epoch=100, total_steps=1000)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, *shape)).astype(np.float32)
    data = shard_batch({"image": images, "label": rng.integers(0, 10, batch).astype(np.int32)}, mesh)
    programs, states, memory = [], [], []
    for probe in (None, BlockNames()):
        state = create_state(model, tx, jax.random.key(0), shape, mesh=mesh)
        step: Any = compile_train_step(make_train_step(model, tx, probe=probe), mesh)
        program = step.lower(state, data).compile()
        memory.append(program.memory_analysis().temp_size_in_bytes)
        for _ in range(2):
            state, metrics = program(state, data)
        programs.append(program)
        states.append(state)
    same = all(
        bool((one == other).all())
        for one, other in zip(jax.tree.leaves(states[0].params), jax.tree.leaves(states[1].params), strict=True)
    )
    seconds: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]
    for turn in range(turns):
        for side in (0, 1) if turn % 2 else (1, 0):
            began, used = time.perf_counter(), time.process_time()
            states[side], metrics = programs[side](states[side], data)
            jax.block_until_ready((states[side], metrics))
            seconds[side].append(time.perf_counter() - began)
            cpu[side].append(time.process_time() - used)
    tens = [_ten(programs, states, data, turn) for turn in range(max(turns // 4, 5))]
    plain, probed = (float(np.median(times)) for times in seconds)
    ratios = np.asarray(seconds[1]) / np.asarray(seconds[0])
    blocks = model.config.num_blocks
    return {
        "network": name, "batch": batch, **choices, "blocks": blocks, "turns": turns,
        "plain_ms": 1e3 * plain, "probed_ms": 1e3 * probed, "ratio": float(np.median(ratios)),
        "ratio_quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
        "ratio_of_shortest": min(seconds[1]) / min(seconds[0]),
        "ratio_of_fewest_cpu_seconds": min(cpu[1]) / min(cpu[0]),
        "every_10_ratio": float(np.median(tens)), "every_10_ratio_quartiles": np.quantile(tens, [0.25, 0.75]).tolist(),
        "temporaries_plain": memory[0], "temporaries_probed": memory[1], "same_parameters_to_the_bit": same,
    }  # fmt: skip


def _ten(programs: list[Any], states: list[Any], data: Any, turn: int) -> float:
    """Return the time of ten steps, the first of them probed, over that of ten without, all on the first state.

    On two states the one that lay better in memory was faster by more than the probes cost.
    """
    seconds = [0.0, 0.0]
    for side in (0, 1) if turn % 2 else (1, 0):
        began = time.perf_counter()
        for number in range(10):
            program = programs[1 if side and number == 0 else 0]
            states[0], metrics = program(states[0], data)
            jax.block_until_ready((states[0], metrics))
        seconds[side] = time.perf_counter() - began
    return seconds[1] / seconds[0]


def main() -> None:
    """Measure every case and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of networks")
    options = parser.parse_args()
    keep_freed_memory()
    rows = []
    for name, batch, choices, turns in CASES:
        if options.only and name not in options.only:
            continue
        rows.append(measure(name, batch, choices, turns))
        print(json.dumps(rows[-1]), flush=True)
    packages = describe_environment()["packages"]
    record = {
        "command": f"python experiments/benchmarks/probe_overhead.py --out {options.out}",
        "date": str(datetime.date.today()),
        "packages": {name: packages[name] for name in ("jax", "flax", "numpy")},
        "device": jax.devices()[0].device_kind,
        "rows": rows,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
