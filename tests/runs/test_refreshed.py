"""Averaged weights of a run get batch statistics of their own, which are saved, validated and tested."""

from __future__ import annotations

import io
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from rich.console import Console

from resnet_jax.errors import UsageError
from resnet_jax.models import ResNetConfig
from resnet_jax.models.rows import MODELS, NamedModel
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.evaluate import load_run, reestimate_run
from resnet_jax.runs.fit import fit
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runs.refreshed import batches_of


@pytest.fixture(scope="module", autouse=True)
def tiny_network():
    """A network of one block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", NamedModel(ResNetConfig((1,), (4,), stem="cifar"), 8, "these tests"))
        yield


def _config(**values) -> RunConfig:
    choices = {"model.name": "tiny", "train.length": "6 steps", "train.batch_size": 64, "train.ema.kind": "swa",
               "train.ema.start": "2 steps", "train.ema.every": "2 steps", "train.validate_every": "3 steps",
               "optim.schedule.warmup": None, "optim.schedule.kind": "constant"}  # fmt: skip
    return with_values(
        load_recipe("digits"), choices | {name.replace("__", "."): value for name, value in values.items()}
    )


def _fitted(config: RunConfig, run_dir: Path):
    return fit(config, run_dir, console=Console(file=io.StringIO()))


@pytest.mark.slow
def test_a_saved_average_has_statistics_of_its_own(tmp_path) -> None:
    """To measure them again changes nothing; without them the run is the same, but for the averages' statistics."""
    measured, plain = tmp_path / "measured", tmp_path / "plain"
    _fitted(_config(train__ema__reestimate=5), measured)
    _fitted(_config(train__ema__reestimate=0), plain)
    ours, theirs = load_run(measured), load_run(plain)
    chex.assert_trees_all_equal(ours.variables["params"], theirs.variables["params"])
    again = reestimate_run(theirs, 5).variables["batch_stats"]
    chex.assert_trees_all_close(ours.variables["batch_stats"], again, rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), again, theirs.variables["batch_stats"])
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_how_many_batches() -> None:
    config = _config()
    assert [batches_of(config, has_statistics=there) for there in (True, False)] == [50, 0]
    assert batches_of(_config(train__ema__reestimate=7), has_statistics=True) == 7
    assert batches_of(with_values(load_recipe("digits"), {"train.ema.decay": 0.9}), has_statistics=True) == 0
    assert batches_of(load_recipe("digits"), has_statistics=True) == 0
    with pytest.raises(UsageError, match=r"train\.ema\.reestimate 7: the network has no batch statistics"):
        batches_of(_config(train__ema__reestimate=7), has_statistics=False)


def test_more_batches_than_there_are_are_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"train\.ema\.reestimate 500: there are \d+ batches of 64 training images"):
        _fitted(_config(train__ema__reestimate=500), tmp_path / "run")
