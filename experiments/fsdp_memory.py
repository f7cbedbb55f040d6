r"""Memory per device of a sharded state, compared with a state replicated on every device.

For each placement it reports the bytes of the state on one device (parameters, optimizer, moving averages; exact), what
the compiled step takes and returns there (`memory_analysis`), and its collectives. Nothing runs.

    uv run python experiments/fsdp_memory.py --json                       # ResNet-20, 8 fake CPU devices: 2 minutes
    uv run python experiments/fsdp_memory.py --network resnet50 --state   # bytes of the state alone: 10 seconds
    TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost TPU_ACCELERATOR_TYPE=v5litepod-8 \
      uv run --extra tpu python experiments/fsdp_memory.py --network resnet50 --batch 256 --tpu v5e:2x4 --json

With ``--tpu`` the step is compiled by the compiler in libtpu for chips that are only described; the result is about the
program that such chips would run. The CPU's compiler keeps temporaries of its own, and sums a whole gradient before
sharding it, where a TPU's compiler scatters the sum. The last line of ``--json`` is the result.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

import jax
import jax.numpy as jnp

from resnet_jax import create_model
from resnet_jax.bench.plan import bytes_of, collectives_of, memory_of
from resnet_jax.models.count import abstract_variables
from resnet_jax.training.compile import compile_train_step
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.options import OptimConfig
from resnet_jax.training.placement import Placement, PlacementChoice
from resnet_jax.training.state import init_state
from resnet_jax.training.step import make_train_step

MIB = 2**20


def placements(devices: list[Any]) -> dict[str, Placement]:
    """Return what is compared: the state whole, cut over all devices, and cut over half of them, twice."""
    ways: dict[str, tuple[PlacementChoice, int | None]] = {
        "replicated": ("replicated", None),
        "fsdp": ("fsdp", None),
        f"2 x fsdp {len(devices) // 2}": ("fsdp", len(devices) // 2),
    }
    return {name: Placement.of(devices, kind=kind, fsdp_devices=cut) for name, (kind, cut) in ways.items()}


def measure(placement: Placement, options: argparse.Namespace) -> dict[str, Any]:
    """Return the bytes on one device."""
    model = create_model(options.network, dtype=options.dtype)
    shape = (options.size, options.size, model.config.in_channels)
    optim = OptimConfig(options.optimizer, learning_rate=0.1)
    params = abstract_variables(model, shape)["params"]
    tx, _ = make_optimizer(optim, params, steps_per_epoch=1000, total_steps=100_000)
    shapes = jax.eval_shape(lambda key: init_state(model, tx, key, shape, ema=True), jax.random.key(0))
    state = placement.abstract(shapes)
    found: dict[str, Any] = {
        "parameters": bytes_of(state.params),
        "optimizer": bytes_of(state.opt_state),
        "averages": bytes_of(state.ema),
        "state": bytes_of(state),
    }
    if options.state:
        return found
    batch = {
        "image": jax.ShapeDtypeStruct((options.batch, *shape), jnp.float32, sharding=placement.batch()),
        "label": jax.ShapeDtypeStruct((options.batch,), jnp.int32, sharding=placement.batch()),
    }
    step = make_train_step(model, tx, norm_momentum=model.config.norm_momentum, ema_decay=0.999)
    began = time.perf_counter()
    jitted: Any = compile_train_step(step, placement)
    program = jitted.trace(state, batch)
    lowered = program.lower(lowering_platforms=(placement.platform,))
    effort = {"exec_time_optimization_effort": -1.0} if placement.platform == "tpu" else {}
    compiled = lowered.compile(compiler_options=effort) if effort else lowered.compile()
    seconds = round(time.perf_counter() - began, 1)
    return {**found, **memory_of(compiled), "collectives": collectives_of(compiled), "seconds": seconds}


def main() -> None:
    """Measure every placement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20_cifar")
    parser.add_argument("--size", type=int, help="side of an image (default: 32 for CIFAR's networks, else 224)")
    parser.add_argument("--batch", type=int, default=64, help="images of an update, over all devices")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--optimizer", default="sgd", choices=("sgd", "adamw", "lamb"))
    parser.add_argument("--state", action="store_true", help="the bytes of the state alone; compile nothing")
    parser.add_argument("--tpu", help="a described TPU topology in place of CPU devices, such as v5e:2x4")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    options.size = options.size or (32 if "cifar" in options.network else 224)
    devices = jax.devices()
    if options.tpu:
        from jax.experimental import topologies

        devices = list(topologies.get_topology_desc(platform="tpu", topology_name=options.tpu).devices)
    rows = {name: measure(placement, options) for name, placement in placements(devices).items()}
    keys = [key for key in next(iter(rows.values())) if key not in ("collectives", "seconds")]
    print(f"{options.network}, batch {options.batch}, {len(devices)} x {devices[0].device_kind}: MiB on one device")
    print(f"{'':<14}" + "".join(f"{key:>13}" for key in keys))
    for name, row in rows.items():
        said = ", ".join(f"{count} {kind}" for kind, count in row.get("collectives", {}).items())
        print(f"{name:<14}" + "".join(f"{row[key] / MIB:>13,.1f}" for key in keys) + f"  {said}")
    if options.json:
        facts = {"network": options.network, "batch": options.batch, "dtype": options.dtype}
        print(json.dumps({**facts, "devices": len(devices), "device": devices[0].device_kind, "rows": rows}))


if __name__ == "__main__":
    main()
