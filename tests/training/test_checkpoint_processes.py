"""Checkpoints of a state that lies on the devices of two processes: one of them decides, and both go on alike."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_jax.training.checkpoint import Checkpoints
from tests.training.test_checkpoint import assert_same, new_state

pytestmark = pytest.mark.slow

CHILD = """
import faulthandler, json, os, sys
from pathlib import Path

faulthandler.dump_traceback_later(100, exit=True)
rank, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from resnet_jax.errors import RunError
from resnet_jax.runtime import processes
from resnet_jax.training import checkpoint_writer
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.manifest import Score
from resnet_jax.training.state import TrainState

NOTE = {"epoch": 1}
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
everywhere, cut = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(None, "data"))


def state_of(step):
    def make():  # as new_state of test_checkpoint, on the devices of both
        return TrainState(
            step=jnp.int32(step),
            params={"layer": {"kernel": jnp.full((2, 4), float(step))}},
            batch_stats={"norm": {"mean": jnp.arange(3.0), "var": jnp.ones(3)}},
            opt_state=({"count": jnp.int32(step)}, None),
            rng=jax.random.key(7),
        )

    place = jax.tree.map(lambda leaf: everywhere, jax.eval_shape(make)).replace(params={"layer": {"kernel": cut}})
    return jax.jit(make, out_shardings=place)()


said, report = [], {}
with Checkpoints(folder, warn=said.append) as checkpoints:
    report["begun"] = checkpoints.is_begun()
    for step in (1, 2, 3):
        checkpoints.save("last", state_of(step), NOTE, score=Score("accuracy", step / 10))
    report["steps"] = checkpoints.steps("last")
    report["best"] = checkpoints.steps("best")
processes.barrier("saved")
if rank == 0:
    file = next((folder / "last" / "3" / "state").rglob("d/*"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)
processes.barrier("damaged")
with Checkpoints(folder, warn=said.append) as checkpoints:
    state, _ = checkpoints.resume(state_of(0))
    report["resumed"] = int(state.step)
    shards = state.params["layer"]["kernel"].addressable_shards
    report["kernel"] = sorted({float(shard.data.ravel()[0]) for shard in shards})
    report["after"] = checkpoints.steps("last")
    if rank == 0:
        def full(folder):
            raise OSError(28, os.strerror(28))
        checkpoint_writer.digest_files = full
    checkpoints.save("last", state_of(5), NOTE)
    try:
        checkpoints.flush()
    except RunError as error:
        report["failed"] = str(error)
print(json.dumps({**report, "said": said}), flush=True)
"""


def test_two_processes_save_fall_back_and_fail_alike(tmp_path):
    root, folder = Path(__file__).parents[2], tmp_path / "checkpoints"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": str(root)}
    environment.pop("XLA_FLAGS", None)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(rank), port, str(folder)], cwd=root, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        results = [child.communicate(timeout=180) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], [error[-3000:] for _, error in results]
    main, other = (json.loads(out.splitlines()[-1]) for out, _ in results)
    said = main.pop("said"), other.pop("said")
    assert len(said[0]) == 1
    assert "last/3 is damaged" in said[0][0]
    assert said[1] == []
    assert "No space left on device" in main.pop("failed")
    assert "another process cannot write its part" in other.pop("failed")
    assert main == other
    assert main == {
        "begun": False, "steps": [2, 3], "best": [2, 3], "resumed": 2, "kernel": [2.0], "after": [2],
    }  # fmt: skip
    assert (folder / "damaged" / "last-3").is_dir()
    with Checkpoints(folder) as checkpoints:  # and one process goes on with what two have written
        assert_same(checkpoints.resume(new_state(0, width=4))[0], new_state(2, width=4))
