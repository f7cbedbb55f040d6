"""Compare the speed of two source trees' train steps, measured in turns in one run.

    python experiments/benchmarks/two_trees.py BEFORE_TREE AFTER_TREE --rounds 7 --out FILE.json

A tree is a checkout of this repository. Each round starts a process for each tree, in alternating order. It compiles
the train step of ResNet-20 (CIFAR-10's shapes, batch 128, SGD with momentum, crops and flips) through the public
functions that both trees have, and times 30 steps after 5; the figure is the ratio of the medians over rounds. The
evaluation step is timed in the same way. A round takes about 25 seconds per tree on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

WORKER = r"""
import json, sys, time
import jax, jax.numpy as jnp, numpy as np
import resnet_jax as rj
from resnet_jax.models import abstract_variables
from resnet_jax.training.compile import compile_eval_step

N = int(sys.argv[1])
model = rj.create_model("resnet20_cifar")
params = abstract_variables(model, (32, 32, 3))["params"]
config = rj.OptimConfig(name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=1e-4)
tx, _ = rj.make_optimizer(config, params, steps_per_epoch=100, total_steps=1000)
mesh = rj.make_mesh()
preprocess = lambda key, batch: batch["image"].astype(jnp.float32) / 255 - 0.5
step = rj.compile_train_step(rj.make_train_step(model, tx, preprocess=preprocess), mesh)
state = rj.create_state(model, tx, jax.random.key(0), (32, 32, 3), mesh=mesh)
rng = np.random.default_rng(0)
batch = {"image": rng.integers(0, 256, (N, 32, 32, 3), np.uint8), "label": rng.integers(0, 10, N).astype(np.int32),
         "mask": np.ones(N, bool), "index": np.arange(N, dtype=np.int32), "epoch": np.zeros(N, np.int32)}
batch = rj.shard_batch(batch, mesh)
evaluate = compile_eval_step(rj.make_eval_step(model, preprocess=preprocess), mesh)
times = {"train": [], "eval": []}
for i in range(35):
    began = time.perf_counter()
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    times["train"].append(time.perf_counter() - began)
variables = {"params": state.params, "batch_stats": state.batch_stats}
for i in range(35):
    began = time.perf_counter()
    jax.block_until_ready(evaluate(variables, batch))
    times["eval"].append(time.perf_counter() - began)
print(json.dumps({name: sorted(row[5:])[15] for name, row in times.items()} | {"loss": float(metrics["loss"])}))
"""


def measure(tree: Path, batch: int) -> dict[str, float]:
    """Return the median seconds of a train and an eval step of a tree, and the loss after the steps."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(batch)],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure and write the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    for number in range(options.rounds):
        for name in ("before", "after") if number % 2 else ("after", "before"):
            rows[name].append(measure(getattr(options, name).resolve(), options.batch))
            print(number, name, rows[name][-1], flush=True)
    result = {"batch": options.batch, "rounds": options.rounds}
    for step in ("train", "eval"):
        seconds = {name: statistics.median(row[step] for row in found) for name, found in rows.items()}
        pairs = [a[step] / b[step] for a, b in zip(rows["after"], rows["before"], strict=True)]
        result[step] = {**seconds, "ratio": seconds["after"] / seconds["before"], "ratios": sorted(pairs)}
    result["losses"] = {name: sorted({row["loss"] for row in found}) for name, found in rows.items()}
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
