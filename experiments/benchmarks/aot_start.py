"""How much start-up time a serialized executable would save over the persistent cache of compiled programs.

Claim: the cache already stores the executable itself. What remains of a warm start is tracing and lowering, from which
the cache's key is computed; a serialized executable, found by another key, would save only these.

    python experiments/benchmarks/aot_start.py [--recipe digits] [--network resnet50 ...] [--json aot.json]

It compiles the train step once into an empty cache. Then, in the same process and with JAX's own caches cleared, it
times the parts separately: trace, lower, load from the cache; and ``serialize_executable.deserialize_and_load``. CPU;
CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--networks", nargs="*", default=["resnet20_cifar", "resnet110_cifar"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for network in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"network": network, **measure(options.recipe, network, Path(folder))})
            print(json.dumps(rows[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(recipe: str, network: str, folder: Path) -> dict[str, Any]:
    """Return the CPU seconds of every part of a start."""
    import dataclasses

    import jax
    from jax.experimental import serialize_executable
    from jax.experimental.compilation_cache import compilation_cache

    from resnet_jax.models.spec import ModelSpec
    from resnet_jax.ops import native
    from resnet_jax.runs.build import build_parts
    from resnet_jax.runs.data import load_images
    from resnet_jax.runs.recipes import load_recipe
    from resnet_jax.runtime.programs import Programs, let_jax_use

    native.available()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    let_jax_use(Programs(folder, 1 << 30))
    config = dataclasses.replace(load_recipe(recipe), model=ModelSpec(network))
    images = load_images(config)
    seconds: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = run()
        seconds[name] = round(time.process_time() - began, 3)
        return result

    for start in ("cold", "warm"):
        jax.clear_caches()
        parts = build_parts(config, images, config.train.placed())
        feed: Any = parts.make_feed()
        state = parts.new_state()
        batch = parts.placement.shard(next(iter(feed.batches(0, 1))))
        traced = timed(f"{start} trace", lambda: feed.step.trace(state, batch))  # noqa: B023  # called at once
        lowered = timed(f"{start} lower", traced.lower)
        compiled = timed(f"{start} compile or load", lowered.compile)
    payload, *trees = timed("serialize", lambda: serialize_executable.serialize(compiled))
    timed("deserialize", lambda: serialize_executable.deserialize_and_load(payload, *trees))
    kept = sum(entry.stat().st_size for entry in folder.glob("jit_*step*"))
    return {**seconds, "MiB kept": round(kept / 2**20, 1), "MiB serialized": round(len(payload) / 2**20, 1),
            "load": os.getloadavg()[0]}  # fmt: skip


if __name__ == "__main__":
    main()
