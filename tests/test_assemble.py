"""Choices made between the configuration and the parts of a run."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resnet_jax.assemble import STEPS_PER_DISPATCH, steps_per_dispatch
from resnet_jax.config import RunConfig, TrainConfig
from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.data.records import ArrayRecords
from resnet_jax.data.transform import AS_STORED, Geometry
from resnet_jax.errors import UsageError

RECORDS = ArrayRecords(np.zeros((40, 8, 8, 3), np.uint8), np.arange(40))
BYTES = 40 * 8 * 8 * 3 + 40 * 4


class OnDisk:
    """Records whose images are read one by one."""

    labels = RECORDS.labels

    def __len__(self):
        return 40

    def image(self, index):
        return RECORDS.image(index)


def mesh_of(platform, bytes_limit=None) -> Any:
    stats = None if bytes_limit is None else {"bytes_limit": bytes_limit}
    device = SimpleNamespace(platform=platform, memory_stats=lambda: stats)
    return SimpleNamespace(devices=np.array([device]))


def choose(steps, mesh, records: Any = RECORDS, geometry=AS_STORED):
    config = dataclasses.replace(RunConfig(), train=TrainConfig(steps_per_dispatch=steps))
    return steps_per_dispatch(config, TrainBatches(records, 8, seed=0, geometry=geometry), mesh)


def test_steps_per_dispatch_as_asked_for_on_any_platform():
    assert [choose(steps, mesh_of("cpu")) for steps in (1, 7)] == [1, 7]
    assert choose(1, mesh_of("gpu", 10**9)) == 1


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_by_default_several_where_the_training_set_takes_a_quarter_of_the_memory_at_most(platform):
    assert choose(None, mesh_of(platform, 4 * BYTES)) == STEPS_PER_DISPATCH[platform] > 1
    assert choose(None, mesh_of(platform, 4 * BYTES - 1)) == 1
    assert choose(None, mesh_of(platform)) == 1, "a device that does not say how much memory it has"
    assert choose(None, mesh_of("cpu")) == 1


@pytest.mark.parametrize(
    ("records", "geometry", "reason"),
    [
        (
            RECORDS,
            Geometry(8, "random_resized"),
            "random_resized makes other pixels in each epoch, on the host",
        ),
        (OnDisk(), AS_STORED, "the training images are read from digits as they are needed"),
    ],
)
def test_what_cannot_stay_on_the_devices_is_refused_with_the_reason(records, geometry, reason):
    assert choose(None, mesh_of("gpu", 10**9), records, geometry) == 1
    with pytest.raises(UsageError, match=f"train.steps_per_dispatch 2 .*{reason}"):
        choose(2, mesh_of("gpu", 10**9), records, geometry)
    with pytest.raises(UsageError, match="not held in memory"):
        TrainBatches(records, 8, seed=0, geometry=geometry).resident()
