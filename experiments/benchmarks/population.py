"""A population of K runs in one vmapped program compared with K runs one after another.

Claim: none yet; the figure is the ratio of wall times, which depends on the machine. On a GPU, one small run leaves
most of the device idle, and the population should win; on a CPU, the step of a single run already keeps the cores busy.

Both sides train the same ResNet-20 on the same batches from the same states with the same single-run step: one side
compiles ``vmap`` of it, the other calls it for one member after another. Compilation is not included and is reported
separately. The sides take turns of several steps each (population, one by one, population, ...), so that changes of the
machine's speed affect both; the figures are medians over the turns. Batches are on the device before the clock starts,
and the clock stops when the results are there.

Commands:

    uv run python experiments/benchmarks/population.py
    uv run python experiments/benchmarks/population.py --members 8 --batch-size 128 --steps 50 --turns 9

Hardware and time: any; 5 minutes on 2 CPU cores, mostly for compilation. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax import compile_train_step, create_model, create_state, make_mesh, make_train_step, shard_batch
from resnet_jax.training.population import BATCH_AXIS, compile_population_step, create_population, stack_batches

CLASSES = 10


def random_batches(members: int, batch_size: int, side: int) -> list[dict[str, np.ndarray]]:
    """Return one batch of noise for each member."""
    batches = []
    for index in range(members):
        rng = np.random.default_rng(index)
        image = rng.normal(size=(batch_size, side, side, 3)).astype(np.float32)
        batches.append({"image": image, "label": rng.integers(0, CLASSES, batch_size).astype(np.int32)})
    return batches


@contextmanager
def compile_seconds() -> Iterator[list[float]]:
    """Collect the seconds of every compilation in the block."""
    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.clear_event_listeners()


def timed(run: Callable[[], Any]) -> float:
    """Return the seconds until the result is there."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20_cifar")
    parser.add_argument("--norm", default="batch")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--side", type=int, default=32, help="pixels")
    parser.add_argument("--steps", type=int, default=5, help="steps of every member in one turn")
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()

    mesh = make_mesh(jax.devices()[:1])
    model = create_model(args.model, num_classes=CLASSES, norm=args.norm)
    tx = optax.sgd(0.1, momentum=0.9)
    step = make_train_step(model, tx)
    shape, keys = (args.side, args.side, 3), [jax.random.key(index) for index in range(args.members)]
    batches = random_batches(args.members, args.batch_size, args.side)

    together = compile_population_step(step, mesh)
    states = create_population(model, tx, jnp.stack(keys), shape, mesh=mesh)
    stacked = shard_batch(stack_batches(batches), mesh, BATCH_AXIS)
    alone = compile_train_step(step, mesh)
    singles = [create_state(model, tx, key, shape, mesh=mesh) for key in keys]
    placed = [shard_batch(batch, mesh) for batch in batches]
    jax.block_until_ready((states, stacked, singles, placed))

    def one_by_one() -> list[Any]:
        for index, batch in enumerate(placed):
            for _ in range(args.steps):
                singles[index], _ = alone(singles[index], batch)
        return singles

    def population() -> Any:
        nonlocal states
        for _ in range(args.steps):
            states, _ = together(states, stacked)
        return states

    with compile_seconds() as population_compile:
        timed(population)
    with compile_seconds() as single_compile:
        timed(one_by_one)
    difference = max(
        float(jnp.abs(leaf[index] - other).max())
        for index, single in enumerate(singles)
        for leaf, other in zip(jax.tree.leaves(states.params), jax.tree.leaves(single.params), strict=True)
    )
    turns = [(timed(population), timed(one_by_one)) for _ in range(args.turns)]
    images = args.members * args.batch_size * args.steps
    together_median, alone_median = (statistics.median(column) for column in zip(*turns, strict=True))
    result = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        **vars(args),
        "population_seconds": together_median,
        "one_by_one_seconds": alone_median,
        "ratio": alone_median / together_median,
        "ratio_range": [min(b / a for a, b in turns), max(b / a for a, b in turns)],
        "population_images_per_second": images / together_median,
        "one_by_one_images_per_second": images / alone_median,
        "population_compile_seconds": sum(population_compile),
        "one_by_one_compile_seconds": sum(single_compile),
        f"largest_parameter_difference_after_{args.steps}_steps": difference,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
