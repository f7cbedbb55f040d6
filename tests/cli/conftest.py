"""A small folder of images that a network can learn in seconds, and the command line in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.cli.main import run
from tests.tools import TINY, few_devices, kept_programs

#: The smallest run that goes through everything: one block, 12x12 images, two classes, two devices.
OPTIONS = [
    *TINY,
    "--train.length",
    "2 epochs",
    "--train.batch-size",
    "16",
    "--train.log-every",
    "1 steps",
    "--data.pad",
    "1",
]

#: Devices that every command here has; its children too.
DEVICES = 2


@pytest.fixture(scope="package", autouse=True)
def programs(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Two devices, and programs compiled once for all commands here; the variables that show them to a child."""
    with few_devices(DEVICES), kept_programs(tmp_path_factory.getbasetemp() / "programs") as variables:
        yield variables


@pytest.fixture(scope="session")
def stripes(tmp_path_factory) -> Path:
    """Horizontal and vertical stripes with noise, as an npz of one split: 60 images of each kind."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    lines = np.where(np.arange(12) % 4 < 2, 170, 80)
    images = np.where(labels[:, None, None] == 0, lines[None, :, None], lines[None, None, :])
    images = np.clip(images[..., None] + rng.normal(0, 20, (120, 12, 12, 3)), 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "stripes.npz"
    np.savez(path, x=images, y=labels, class_names=np.array(["rows", "columns"]))
    return path


@pytest.fixture
def command(capfd):
    """Run a command in this process; return (exit status, standard output, standard error)."""

    def call(*argv) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            status = run([str(arg) for arg in argv])
        except SystemExit as stop:  # tyro's own
            status = int(stop.code or 0)
        return status, *capfd.readouterr()

    return call


def last_json(out: str):
    """Return the object that is all that --json prints."""
    (line,) = out.splitlines()
    return json.loads(line)
