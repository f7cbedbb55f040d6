"""The cost of saving: how long the loop waits, what is written in the meantime, and how much memory it takes.

    uv run python experiments/checkpoint_cost.py                              # a state of ResNet-50's size
    uv run python experiments/checkpoint_cost.py --model resnet20_cifar --steps 60 --every 10      # a try, in seconds

Claim: with one save per 50 steps of ResNet-50, the loop is blocked for at most 5 % of the time. The state is that of
training with SGD and momentum (parameters, momentum, statistics: 205 MB). A step is simulated by a program on the state
that takes ``--step-ms`` milliseconds by sleeping after it has touched every leaf, so that the figures measure saving
and not this machine's convolutions. Pass the time that a step takes on your device (an H200 makes ResNet-50 steps of
256 images in about 100 ms).

Prints JSON as its last line:

======================  =======================================================================================
``state_mb``            size of the state in memory; ``checkpoint_mb`` on disk
``blocked_ms``          time that ``Checkpoints.save`` waits: median and largest, of the saves after the first
``blocked_share``       share of the time between two saves: the claim; ``first_blocked_ms`` includes one-time loading
``written_s``           from a save until it is a checkpoint, digests included: median and largest
``steps_slower``        median step while a checkpoint is being written, relative to the median step otherwise
``memory_mb``           peak memory of the process above that before the first save
``restore_s``           time to verify and load it; ``verify_s``: the digests alone
``donated``             whether every leaf of a restored state was donated; ``compiled`` programs for it: 1
======================  =======================================================================================

Hardware: any; 2 CPU cores and 4 GB are enough. It takes about 2 minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=50, help="steps between saves")
    parser.add_argument("--step-ms", type=float, default=100.0, help="what a step takes")
    parser.add_argument("--folder", type=Path, help="where to write (default: the directory for temporary files)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(json.dumps(measure(Path(folder), options)))


def state_of(model: str) -> Any:
    """Return a state as training with SGD and momentum has it, on the devices."""
    from resnet_jax import create_model
    from resnet_jax.training.optimizers import OptimConfig, make_optimizer
    from resnet_jax.training.placement import Placement
    from resnet_jax.training.state import init_state

    network = create_model(model)
    side = 32 if "cifar" in model else 224
    variables = jax.eval_shape(
        lambda key: network.init(key, jnp.zeros((1, side, side, 3)), train=False), jax.random.key(0)
    )
    tx, _ = make_optimizer(OptimConfig("sgd", 0.1), variables["params"], steps_per_epoch=100, total_steps=1000)

    @jax.jit
    def make(key: jax.Array) -> Any:  # with noise in the momentum too: zeros would be written as nothing
        state = init_state(network, tx, key, (side, side, 3))
        return jax.tree.map(lambda leaf: _noisy(leaf, key), state.replace(rng=None)).replace(rng=state.rng)

    state = make(jax.random.key(0))
    return jax.device_put(state, Placement.of(jax.devices()[:1]).state(state))


def _noisy(leaf: jax.Array, key: jax.Array) -> jax.Array:
    return leaf + 0.01 * jax.random.normal(key, leaf.shape) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def measure(folder: Path, options: Any) -> dict[str, Any]:
    from resnet_jax.runtime.events import EventLog, read_events
    from resnet_jax.training.checkpoint import Checkpoints
    from resnet_jax.training.manifest import verify

    step = jax.jit(_advance, donate_argnums=0)
    state = jax.block_until_ready(step(state_of(options.model)))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.replace(rng=None)))
    log = folder / "events.jsonl"
    blocked, alone, beside = [], [], []
    with Memory() as memory, Checkpoints(folder / "checkpoints", events=EventLog(log)) as checkpoints:
        for number in range(1, options.steps + 1):
            began = time.perf_counter()
            state = jax.block_until_ready(step(state))
            computed = time.perf_counter() - began
            time.sleep(max(options.step_ms / 1000 - computed, 0))
            (beside if checkpoints.is_writing else alone).append(computed)
            if number % options.every == 0:
                began = time.perf_counter()
                checkpoints.save("last", state, {"step": number})
                blocked.append(time.perf_counter() - began)
        checkpoints.flush()
    saves = [row for row in read_events(log) if row["event"] == "save"]
    newest = folder / "checkpoints" / "last" / str(int(state.step))
    began = time.perf_counter()
    assert verify(newest, int(state.step)) is not None
    verified = time.perf_counter() - began
    like = state_of(options.model)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        began = time.perf_counter()
        restored, _ = checkpoints.restore("last", like)
        jax.block_until_ready(restored)
        loaded = time.perf_counter() - began
    programs = step._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
    jax.block_until_ready(step(restored))
    later, between = blocked[1:] or blocked, options.every * options.step_ms / 1000
    return {
        "model": options.model,
        "device": jax.devices()[0].device_kind,
        "state_mb": round(size / 1e6, 1),
        "checkpoint_mb": round(saves[-1]["bytes"] / 1e6, 1),
        "saves": len(blocked),
        "first_blocked_ms": round(blocked[0] * 1e3, 1),
        "blocked_ms": [round(statistics.median(later) * 1e3, 1), round(max(later) * 1e3, 1)],
        "between_saves_s": between,
        "blocked_share": round(statistics.median(later) / between, 4),
        "written_s": [
            round(statistics.median(row["seconds"] for row in saves), 3), round(max(row["seconds"] for row in saves), 3)
        ],
        "steps_slower": round(statistics.median(beside) / statistics.median(alone), 3) if beside and alone else None,
        "memory_mb": round(memory.most / 1e6, 1),
        "verify_s": round(verified, 3),
        "restore_s": round(loaded, 3),
        "donated": all(leaf.is_deleted() for leaf in jax.tree.leaves(restored.replace(rng=None))),
        "compiled": step._cache_size() - programs + 1,  # pyright: ignore[reportAttributeAccessIssue]
    }  # fmt: skip


def _advance(state: Any) -> Any:
    """Touch every leaf, as a step does."""

    def moved(leaf: jax.Array) -> jax.Array:
        return leaf * 1.000001 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(moved, state.replace(rng=None)).replace(rng=state.rng, step=state.step + 1)


class Memory:
    """The most that this process takes, above what it had when the block began; sampled every 5 ms (Linux)."""

    def __enter__(self) -> Memory:
        self.most, self._before, self._done = 0, _resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.most = max(self.most, _resident() - self._before)


def _resident() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * 4096


if __name__ == "__main__":
    main()
