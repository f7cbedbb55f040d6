"""Plans against the real thing: the bytes of a state and a batch on one device, and the memory of a step that runs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import jax
import pytest

from resnet_jax.bench.ours import optimizer, random_batch
from resnet_jax.bench.plan import compile_plan, plan
from resnet_jax.bench.workload import Workload
from resnet_jax.errors import UsageError
from resnet_jax.models import ModelSpec, count
from resnet_jax.training.compile import create_state
from resnet_jax.training.mesh import make_mesh, shard_batch

#: Runs one planned step, and prints how far the memory of the process grew while it ran.
MEASURE = """
import json, sys
import jax
from resnet_jax.bench.ours import Ours
from resnet_jax.bench.workload import Workload

def memory(key):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[key].split()[0]) * 1024

side = Ours(Workload.from_dict(json.loads(sys.argv[1])))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak counts from here
before = memory("VmRSS")
side.dispatch()
side.wait()
print(memory("VmHWM") - before)
"""


def on_one_device(tree) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
def test_arguments_are_the_bytes_of_the_real_state_and_batch(tiny):
    tiny = dataclasses.replace(tiny, accumulate=2)
    result, mesh, model = compile_plan(tiny), make_mesh(), tiny.network()
    assert mesh.size == 8
    state = create_state(model, optimizer(tiny, model), jax.random.key(0), tiny.input_shape, mesh=mesh)
    batch = shard_batch(random_batch(tiny, 10), mesh)
    memory, split = result["memory"], result["split"]
    assert memory["arguments"] == on_one_device(state) + on_one_device(batch)
    assert split["parameters"] == on_one_device(state.params)
    assert split["statistics"] == on_one_device(state.batch_stats)
    assert split["optimizer"] == on_one_device(state.opt_state)
    assert split["batch"] == on_one_device(batch) == 4 * (8 * 8 * 3 + 1) * 4
    kinds = ("parameters", "statistics", "optimizer", "other_state", "batch")
    assert sum(split[kind] for kind in kinds) == memory["arguments"]
    assert split["gradients_estimate"] + split["activations"] == memory["temporaries"]
    assert memory["aliased"] == on_one_device(state) <= memory["outputs"], "the whole state is donated"
    assert memory["peak"] == sum(memory[kind] for kind in ("arguments", "outputs", "temporaries")) - memory["aliased"]
    sizes = count(model, tiny.input_shape)
    assert (result["params"], result["batch_stats"]) == (sizes.params, sizes.batch_stats)
    assert result["flops_per_step"] == 6 * sizes.macs * 32


@pytest.mark.parametrize(
    ("workload", "devices", "message"),
    [
        (Workload(ModelSpec("resnet20_cifar"), 4), 0, "devices must be 1 or more"),
        (Workload(ModelSpec("resnet20_cifar"), 6), 4, "6 cannot be shared equally by 4 devices"),
        (Workload(ModelSpec("resnet20_cifar"), 12, accumulate=2), 4, "use a multiple of 8"),
        (Workload(ModelSpec("resnet02"), 4), 1, "unknown model"),
    ],
)
def test_what_cannot_be_planned(workload, devices, message):
    with pytest.raises(UsageError, match=message):
        plan(workload, devices)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is reset and read through /proc")
def test_the_peak_of_a_real_step_is_the_planned_one():
    """Beyond its arguments, within 24 MiB: code, threads and the allocator take 12 MiB of their own at any batch."""
    workload = Workload(ModelSpec("resnet20_cifar"), 64)
    planned = plan(workload)["memory"]
    command = [sys.executable, "-c", MEASURE, json.dumps(workload.to_dict())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(planned["peak"] - planned["arguments"], abs=24 * 2**20)


@pytest.mark.slow
def test_a_state_cut_over_devices(tiny):
    """What is planned of a placement is what it does: a part of the state on each device, and the gathers it costs."""
    cut = dataclasses.replace(tiny, model=tiny.model.replace(widths=(32,)), placement="fsdp", fsdp_devices=4)
    whole, parts = compile_plan(dataclasses.replace(cut, placement="replicated", fsdp_devices=None)), compile_plan(cut)
    assert parts["split"]["optimizer"] < whole["split"]["optimizer"]
    assert parts["memory"]["arguments"] < whole["memory"]["arguments"]
    assert whole["collectives"].get("all-gather", 0) <= 3, "the moments of three batch norms; no parameters"
    assert parts["collectives"]["all-gather"] >= 1
    for wrong, message in (({"fsdp_devices": 3}, "must divide the 8"), ({"placement": "replicated"}, "goes with")):
        with pytest.raises(UsageError, match=message):
            plan(dataclasses.replace(cut, **wrong), 8)
