"""A network that compiles in a moment, and a run of it."""

from __future__ import annotations

import pytest

from resnet_jax.runs.config import RunConfig
from tests import tiny_network as tiny


@pytest.fixture(scope="module")
def tiny_network():
    """Add the network."""
    with tiny.tiny_networks():
        yield


def tiny_config(**train) -> RunConfig:
    """Three epochs."""
    return tiny.tiny_config(**{"length": "3 epochs", **train})
