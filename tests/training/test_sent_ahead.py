"""Batches on the devices before they are asked for: the same, in order, bounded, and those of several processes too."""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from resnet_jax.errors import DataError
from resnet_jax.training.feeds import sent_ahead
from resnet_jax.training.placement import Placement

MADE: list[int] = []


def stream(count: int, broken: int | None = None):
    for number in itertools.count() if count == 0 else range(count):
        if number == broken:
            raise DataError("example 3 is broken")
        MADE.append(number)
        yield {"image": np.full((4, 2), number, np.uint8)}


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_batches_come_in_order_and_errors_in_place_of_theirs(ahead):
    placement = Placement.of(jax.devices()[:2])
    found = list(sent_ahead(stream(5), placement, ahead=ahead))
    assert [int(batch["image"][0, 0]) for batch in found] == [0, 1, 2, 3, 4]
    assert all(batch["image"].sharding == placement.batch() for batch in found)
    batches = sent_ahead(stream(5, broken=2), placement, ahead=ahead)
    assert [int(next(batches)["image"][3, 1]) for _ in range(2)] == [0, 1]
    with pytest.raises(DataError, match="example 3 is broken"):
        next(batches)


def test_no_more_than_is_allowed_are_sent_ahead():
    MADE.clear()
    with contextlib.closing(sent_ahead(stream(0), Placement.of(jax.devices()[:1]), ahead=2)) as batches:
        next(batches)
        time.sleep(0.1)
        assert len(MADE) <= 4


RANK = """
import sys
import jax
import numpy as np
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
rank, port = map(int, sys.argv[1:])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
from jax.experimental import multihost_utils
from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.data.records import ArrayRecords
from resnet_jax.training.feeds import sent_ahead
from resnet_jax.training.placement import Placement
records = ArrayRecords(np.random.default_rng(0).integers(0, 256, (40, 4, 4), np.uint8), np.arange(40))
whole = TrainBatches(records, 8, seed=3)
part = TrainBatches(records, 8, seed=3, shard=(rank, 2))
placement = Placement.of()
for step, batch in enumerate(sent_ahead(part.iterate(0, 12, threads=2), placement, ahead=2)):
    assert batch["image"].shape == (8, 4, 4, 1)
    for name, values in whole.batch(step).items():
        np.testing.assert_array_equal(multihost_utils.process_allgather(batch[name], tiled=True), values)
assert step == 11
"""


@pytest.mark.slow
def test_the_parts_of_two_processes_are_one_batch_on_four_devices():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(port)]) for rank in range(2)]
    try:
        assert [rank.wait(240) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
