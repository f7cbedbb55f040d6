"""A network that compiles in a moment, under a name of its own, and a run of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import pytest

from resnet_jax.models import ResNetConfig
from resnet_jax.models.rows import MODELS, NamedModel
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.training.schedules import ScheduleConfig
from tests.tools import few_devices


@contextlib.contextmanager
def tiny_networks() -> Iterator[None]:
    """Add a network of one block, named by ``model.name tiny``; train on one device: eight take long to compile for."""
    with few_devices(1), pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            MODELS, "tiny", NamedModel(ResNetConfig((1,), (8,), stem="cifar", norm_groups=4), 8, "these tests")
        )
        yield


def tiny_config(length: str, **train) -> RunConfig:
    """A run of it on the digits, nine steps an epoch."""
    config = load_recipe("digits")
    train = {"length": length, "batch_size": 128, **train}
    return dataclasses.replace(
        config,
        model=config.model.replace(name="tiny"),
        train=dataclasses.replace(config.train, **train),
        optim=dataclasses.replace(config.optim, schedule=ScheduleConfig(kind="cosine"), learning_rate=0.05),
    )
