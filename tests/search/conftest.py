"""A network that compiles in a moment, under a name of its own."""

from __future__ import annotations

import dataclasses

import pytest

from resnet_jax.models import ResNetConfig
from resnet_jax.models.rows import MODELS, NamedModel
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.training.schedules import ScheduleConfig
from tests.tools import few_devices


@pytest.fixture(scope="module")
def tiny_network():
    """Add a network of one block, named by ``model.name tiny``; train on one device: eight take long to compile for."""
    with few_devices(1), pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            MODELS, "tiny", NamedModel(ResNetConfig((1,), (8,), stem="cifar", norm_groups=4), 8, "these tests")
        )
        yield


def tiny_config(**train) -> RunConfig:
    """Three epochs of nine steps on the digits."""
    config = load_recipe("digits")
    train = {"length": "3 epochs", "batch_size": 128, **train}
    return dataclasses.replace(
        config,
        model=config.model.replace(name="tiny"),
        train=dataclasses.replace(config.train, **train),
        optim=dataclasses.replace(config.optim, schedule=ScheduleConfig(kind="cosine"), learning_rate=0.05),
    )
