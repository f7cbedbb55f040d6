"""A network that compiles in a moment, and an ablation of it that has everything."""

from __future__ import annotations

import pytest

from resnet_jax.ablation.directory import Definition
from resnet_jax.runs.config import RunConfig
from tests import tiny_network as tiny

STEPS = 18
SEEDS = (0, 3)


@pytest.fixture(scope="module", autouse=True)  # not the session: other tests count the devices
def tiny_network():
    """Add the network."""
    with tiny.tiny_networks():
        yield


def tiny_config(**train) -> RunConfig:
    """Two epochs."""
    return tiny.tiny_config(**{"length": "2 epochs", **train})


def everything() -> Definition:
    """A cell that learns, one that diverges and one that cannot be built."""
    cells = {"learns": {}, "diverges": {"optim.learning_rate": 1e30}, "cannot be": {"model.residual": "fixup"}}
    return Definition(tiny_config(), named=cells, seeds=SEEDS)
