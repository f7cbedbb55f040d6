"""A network of one block, and where an interpreter with PyTorch is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resnet_jax.bench.workload import Workload
from resnet_jax.models import ModelSpec, ResNetConfig
from resnet_jax.models.rows import MODELS, NamedModel

VARIABLE = "RESNET_JAX_TORCH_PYTHON"


@pytest.fixture(scope="session")
def torch_python() -> Path:
    """The interpreter that the environment names; tests that need it say that they skip without."""
    path = os.environ.get(VARIABLE)
    if not path:
        pytest.skip(f"{VARIABLE} does not name an interpreter that has torch")
    return Path(path)


@pytest.fixture
def tiny(monkeypatch) -> Workload:
    """A network that compiles in a second; its batch suits 8 devices. Other processes do not know it."""
    monkeypatch.setitem(MODELS, "tiny", NamedModel(ResNetConfig((1,), (4,), stem="cifar", num_classes=10), 8, "tests"))
    return Workload(ModelSpec("tiny"), 32)
