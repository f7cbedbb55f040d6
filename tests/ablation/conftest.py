"""A network that compiles in a moment, under a name of its own, and an ablation of it that has everything."""

from __future__ import annotations

import dataclasses

import pytest

from resnet_jax.ablation.directory import Definition
from resnet_jax.models import ResNetConfig
from resnet_jax.models.rows import MODELS, NamedModel
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.training.schedules import ScheduleConfig
from tests.tools import few_devices

STEPS = 18
SEEDS = (0, 3)


@pytest.fixture(scope="module", autouse=True)  # not the session: other tests count the devices
def tiny_network():
    """Add a network of one block, named by ``model.name tiny``; train on one device: eight take long to compile for."""
    with few_devices(1), pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            MODELS, "tiny", NamedModel(ResNetConfig((1,), (8,), stem="cifar", norm_groups=4), 8, "these tests")
        )
        yield


def tiny_config(**train) -> RunConfig:
    """Two epochs of nine steps on the digits."""
    config = load_recipe("digits")
    train = {"length": "2 epochs", "batch_size": 128, **train}
    return dataclasses.replace(
        config,
        model=config.model.replace(name="tiny"),
        train=dataclasses.replace(config.train, **train),
        optim=dataclasses.replace(config.optim, schedule=ScheduleConfig(kind="cosine"), learning_rate=0.05),
    )


def everything() -> Definition:
    """A cell that learns, one that diverges and one that cannot be built."""
    cells = {"learns": {}, "diverges": {"optim.learning_rate": 1e30}, "cannot be": {"model.residual": "fixup"}}
    return Definition(tiny_config(), named=cells, seeds=SEEDS)
