"""A state cut over the devices of two processes: the numbers, the parts and the checkpoint of one process with four."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.compile import compile_eval_step, compile_train_step
from resnet_jax.training.placement import Placement, shard_batch
from resnet_jax.training.step import make_eval_step
from tests.training.test_fsdp import MODEL, STEP, host_batch, new_state

pytestmark = pytest.mark.slow

CHILD = """
import faulthandler, json, sys
from pathlib import Path

faulthandler.dump_traceback_later(300, exit=True)
rank, port, folder, cut = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
from resnet_jax.training.placement import Placement
from tests.training.test_fsdp_processes import run

print(json.dumps(run(Placement.of(kind="fsdp", fsdp_devices=cut, smallest=64), folder, rank, 2)))
"""


def run(placement: Placement, folder: Path, rank: int = 0, processes: int = 1) -> dict:
    """Train three steps, evaluate, save; return losses, sums, bytes of this process's first device."""
    step, state, losses = compile_train_step(STEP, placement), new_state(placement), []

    def mine(seed: int) -> dict[str, np.ndarray]:
        return {name: np.split(value, processes)[rank] for name, value in host_batch(seed).items()}

    for seed in range(3):
        state, metrics = step(state, shard_batch(mine(seed), placement))
        losses.append(float(metrics["loss"]))
    evaluated = compile_eval_step(make_eval_step(MODEL), placement)(
        state.eval_variables, shard_batch({**mine(0), "mask": np.ones(8 // processes, bool)}, placement)
    )
    with Checkpoints(folder) as checkpoints:
        checkpoints.save("last", state, {"epoch": 1})
    with Checkpoints(folder) as checkpoints:
        again, _ = checkpoints.restore("last", new_state(placement))
    again, metrics = step(again, shard_batch(mine(3), placement))
    losses.append(float(metrics["loss"]))
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.replace(rng=None)))
    whole = placement.whole(state.params)
    total = sum(float(np.abs(leaf.addressable_data(0)).sum()) for leaf in jax.tree.leaves(whole))
    return {"losses": losses, "sum": float(evaluated["loss_sum"]), "held": held, "total": total}


@pytest.mark.parametrize("cut", [4, 2])
def test_two_processes_are_one_with_all_their_devices(tmp_path, cut):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "two"
    command = [sys.executable, "-c", CHILD]
    ranks = [
        subprocess.Popen([*command, str(rank), str(port), str(folder), str(cut)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        found = [json.loads(rank.communicate(timeout=400)[0].splitlines()[-1]) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    placement = Placement.of(jax.devices()[:4], kind="fsdp", fsdp_devices=cut, smallest=64)
    alone = run(placement, tmp_path / "one")
    for one in found:
        np.testing.assert_allclose(one["losses"], alone["losses"], rtol=1e-5)
        np.testing.assert_allclose([one["sum"], one["total"]], [alone["sum"], alone["total"]], rtol=1e-5)
        assert one["held"] == alone["held"]
    states = []
    for name in ("one", "two"):  # what two processes wrote, one reads, whole on one device
        with Checkpoints(tmp_path / name) as checkpoints:
            like = Placement.of(jax.devices()[:1]).abstract(new_state(placement))
            states.append(checkpoints.restore("last", like)[0])
    for a, b in zip(*(jax.tree.leaves(state.params) for state in states), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
