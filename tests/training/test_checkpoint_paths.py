"""A checkpoint comes back from a directory of any name."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.runtime.paths import PlainAlias
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.mesh import make_mesh, replicated
from resnet_jax.training.state import TrainState

NAMES = ["plain", "[old] runs", "a*b", "what?", "50% #1", "$x$", "two\nlines", "猫", os.fsdecode(b"bytes\xff")]


@pytest.mark.parametrize("name", NAMES)
def test_a_state_comes_back_from_a_directory_of_any_name(tmp_path, name):
    try:
        (tmp_path / name).mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    state = TrainState(
        step=jnp.full((), 3, jnp.int32),
        params={"w": jnp.arange(4.0)},
        batch_stats={},
        opt_state={},
        rng=jax.random.key(0),
    )
    state = jax.device_put(state, replicated(make_mesh()))
    folder = tmp_path / name / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save("last", state, {"epochs": 1})
    with Checkpoints(folder, owner=False) as checkpoints:
        assert checkpoints.steps("last") == [3]
        found, progress = checkpoints.restore("last", state)
    np.testing.assert_array_equal(found.params["w"], np.arange(4.0))
    assert progress == {"epochs": 1}
    assert [path.name for path in folder.iterdir()] == ["last"]


def test_an_alias_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alias = PlainAlias(tmp_path / "[x]")
    (alias.path / "file").write_text("kept")
    alias.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["[x]"]
    assert (Path(tmp_path) / "[x]" / "file").read_text() == "kept"
