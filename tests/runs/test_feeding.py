"""Where the training images are is said: on the devices, in memory or read as needed, and why."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.data.records import ArrayRecords
from resnet_jax.data.transform import AS_STORED, Geometry
from resnet_jax.runs.config import DataConfig, RunConfig, TrainConfig
from resnet_jax.runs.feeding import describe_feed

SENT = "0.3 MB in memory, sent batch by batch"
RECORDS = ArrayRecords(np.zeros((1000, 10, 10, 3), np.uint8), np.zeros(1000, int))


def mesh_of(platform: str, bytes_limit: int = 0) -> Any:
    device = SimpleNamespace(platform=platform, memory_stats=lambda: {"bytes_limit": bytes_limit})
    return SimpleNamespace(devices=np.array([device]))


@pytest.mark.parametrize(
    ("mesh", "train", "geometry", "said"),
    [
        (mesh_of("gpu", 10**9), {}, AS_STORED, "0.3 MB resident on each device, 16 updates in a call"),
        (
            mesh_of("gpu", 10**6),
            {},
            AS_STORED,
            "0.3 MB in memory, sent batch by batch: more than 25% of a device's 1.0 MB",
        ),
        (mesh_of("gpu", 10**9), {"steps_per_dispatch": 1}, AS_STORED, "0.3 MB in memory, sent batch by batch"),
        (mesh_of("cpu"), {}, AS_STORED, "0.3 MB in memory, sent batch by batch"),
        (mesh_of("cpu"), {"steps_per_dispatch": 2}, AS_STORED, "0.3 MB resident on each device, 2 updates in a call"),
        (
            mesh_of("gpu", 10**9),
            {},
            Geometry(8, "random_resized"),
            "streamed: decoded as they are needed by 2 worker processes of 3 threads (other pixels in each epoch)",
        ),
    ],
)
def test_it_is_said_where_the_training_images_are(mesh, train, geometry, said):
    config = dataclasses.replace(RunConfig(), train=TrainConfig(**train), data=DataConfig(workers=2, threads=3))
    assert describe_feed(config, TrainBatches(RECORDS, 10, seed=0, geometry=geometry), mesh) == said
