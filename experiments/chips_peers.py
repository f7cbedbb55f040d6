r"""Compare our train step with plain Flax's, both compiled for a chip that need not be present.

    uv run --extra tpu python experiments/chips_peers.py                                   # ResNet-50 on v5e, batch 128
    uv run --extra tpu python experiments/chips_peers.py --largest                         # and the largest batches
    uv run --extra cuda12 python experiments/chips_peers.py --chips h100 --batch 256       # 1 to 3 minutes a side

Plain Flax is ``experiments/benchmarks/peers/flax_peer.py``. It takes normalized float32 images; ours takes uint8 and
normalizes and flips them in the step. TPUs: low effort unless ``--effort full``. Compilations run one at a time, each
in its own process: a ResNet-50 takes half a minute and 2 GB. The result is written to ``--out``.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from resnet_jax.bench.chips.bound import bound
from resnet_jax.bench.chips.compiled import Request
from resnet_jax.bench.chips.described import ENVIRONMENT, LOW_EFFORT, described_devices, versions
from resnet_jax.bench.chips.plan import plan_chips, search, usual_augment
from resnet_jax.bench.chips.program import read_program
from resnet_jax.bench.chips.table import GIB, parse_chips
from resnet_jax.bench.plan import memory_of
from resnet_jax.bench.workload import Workload, peer_network
from resnet_jax.models import ModelSpec

HERE = Path(__file__).parent
PEER = HERE / "benchmarks" / "peers" / "flax_peer.py"


def workload_of(network: str, batch: int) -> Workload:
    """Return a bfloat16 workload."""
    return Workload(ModelSpec(network).replace(dtype="bfloat16"), batch)


def ours(network: str, chips: str, effort: str, batch: int) -> dict[str, Any]:
    """Return the plan of our step."""
    workload = workload_of(network, batch)
    shape = workload.input_shape
    return plan_chips(Request(workload, chips, usual_augment(shape[0], len(shape) - 1), effort=effort))


def flax(network: str, chips: str, effort: str, batch: int) -> dict[str, Any]:
    """Return the plan of plain Flax's, which another process makes."""
    command = [sys.executable, __file__, "--child", network, chips, effort, str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compile_flax(network: str, name: str, effort: str, batch: int) -> dict[str, Any]:
    """Compile plain Flax's step; in a process of its own."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    spec = importlib.util.spec_from_file_location("flax_peer", PEER)
    assert spec is not None
    assert spec.loader is not None
    peer = sys.modules["flax_peer"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    chips, workload = parse_chips(name), workload_of(network, batch)
    where = SingleDeviceSharding(described_devices(chips)[0])
    described = peer_network(workload.model.config())
    model = peer.ResNet(peer._hashable(described), jnp.bfloat16)
    placed = functools.partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where))
    images = jax.ShapeDtypeStruct((batch, *workload.input_shape), jnp.float32, sharding=where)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=where)

    def init(key: Any) -> Any:
        variables = model.init(key, jnp.zeros((1, *workload.input_shape)), train=False)
        return {**variables, "opt_state": peer.OPTIMIZER.init(variables["params"])}

    state = placed(jax.eval_shape(init, jax.random.key(0)))
    step: Any = jax.jit(peer.make_train_step(model), donate_argnums=0)
    platform = "cuda" if chips.chip.platform == "gpu" else "tpu"
    options = LOW_EFFORT if effort == "low" and platform == "tpu" else None
    lowered = step.trace(state, images, labels).lower(lowering_platforms=(platform,))
    began = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"fits": False, "refused": str(error).splitlines()[0][:200]}
    took = time.perf_counter() - began
    program = read_program(compiled.as_text(), platform=chips.chip.platform)
    memory = memory_of(compiled)
    memory["code"] = compiled.memory_analysis().generated_code_size_in_bytes
    memory["peak"] += memory["code"]
    return {
        "fits": memory["peak"] <= chips.chip.memory,
        "memory": memory,
        "program": program.summary(),
        "bound": bound(program, chips, images=batch, devices=1),
        "versions": versions(chips.chip.platform),
        "compile_seconds": took,
    }


def said(name: str, plan: dict[str, Any]) -> str:
    """Return a line of the table."""
    program, memory = plan["program"], plan["memory"]
    alone = sum(each["times"] for each in program["activations_moved"] if each["alone"])
    return (
        f"{name:<12}{program['kernels']:>9,}{program['bytes_moved'] / GIB:>12.2f}{memory['temporaries'] / GIB:>14.2f}"
        f"{memory['peak'] / GIB:>10.2f}{len(program['convolutions_off_unit']):>10}{alone:>8}"
        f"{1e3 * plan['bound']['step']:>11.2f}"
    )


def main() -> None:
    """Compile both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--chips", default="v5e:1x1", help="one of them, such as h100")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--effort", choices=("low", "full"), default="low")
    parser.add_argument("--largest", action="store_true", help="search the largest batch of each side")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        network, chips, effort, batch = options.child
        print(json.dumps(compile_flax(network, chips, effort, int(batch))))
        return
    chips = parse_chips(options.chips)
    found: dict[str, Any] = {"network": options.network, "chips": chips.text, "batch": options.batch}
    found |= {"effort": options.effort, "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"}
    print(f"{options.network}, batch {options.batch}, bfloat16, {chips.text}, {options.effort} effort")
    heads = ("kernels", 9), ("GiB moved", 12), ("temporaries", 14), ("peak", 10), ("off unit", 10), ("copies", 8)
    print(" " * 12 + "".join(f"{head:>{width}}" for head, width in (*heads, ("bound ms", 11))))
    for name, side in (("ours", ours), ("plain Flax", flax)):
        compile_at = functools.partial(side, options.network, chips.text, options.effort)
        plan = compile_at(options.batch)
        if "program" in plan:
            print(said(name, plan), flush=True)
        kept = ("fits", "memory", "program", "bound", "versions", "compile_seconds", "refused")
        found[name] = {key: plan[key] for key in kept if key in plan}
        if options.largest:
            first = {options.batch: plan}
            largest = search(
                lambda batch, first=first, compile_at=compile_at: first.get(batch) or compile_at(batch),
                options.batch,
                chips.chip.memory,
                said=lambda line, name=name: print(f"{name}: {line}", file=sys.stderr, flush=True),
            )
            found[name]["largest"] = largest
            print(f"{name}: largest batch {largest['batch_per_chip']}{'' if largest['exact'] else ' or more'}")
    out = options.out or HERE / "results" / "chips" / f"peers-{options.network}-{chips.chip.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
