"""Processes that do not mean the same run, data or directory are refused; what they exchange is given."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from resnet_jax.errors import RunError
from resnet_jax.runs import several
from resnet_jax.runs.auto import Beginning
from resnet_jax.runs.config import config_to_yaml
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runs.several import require_one_data, require_one_run, require_shared
from resnet_jax.runtime import processes

CARD = DatasetInfo(("a", "b"), (8, 8, 1), (0.5,), (0.25,), {"train": 10, "test": 5}, labels="0123")


@pytest.fixture
def two(monkeypatch):
    """Two processes, of which this is the first; what the second says is changed by the test."""
    second = {"says": lambda value: value}
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "index", lambda: 0)
    monkeypatch.setattr(processes, "barrier", lambda name: None)
    monkeypatch.setattr(processes, "from_main", lambda value: value)
    monkeypatch.setattr(processes, "gathered", lambda value: [value, second["says"](value)])
    return second


def test_another_configuration_is_named_with_its_process(two):
    config = load_recipe("digits")
    begun = Beginning(config, Path("runs/digits"), ())
    require_one_run(begun)
    other = config_to_yaml(with_values(config, {"seed": 3}))
    two["says"] = lambda value: other if "recipe" in str(value) else value
    with pytest.raises(
        RunError, match="process 1 was started with another configuration than process 0: seed: 0 -> 3"
    ) as raised:
        require_one_run(begun)
    assert processes.is_agreed(raised.value)
    two["says"] = lambda value: "elsewhere" if value == "runs/digits" else value
    with pytest.raises(RunError, match="the run directory is 'runs/digits' in process 0 and 'elsewhere' in process 1"):
        require_one_run(begun)


def test_other_data_is_named_with_its_host(two):
    require_one_data(CARD)
    other = json.dumps(dataclasses.asdict(dataclasses.replace(CARD, labels="4567", examples={"train": 9, "test": 5})))
    two["says"] = lambda value: [other, "node2"]
    with pytest.raises(RunError, match=r"process 1 reads on node2 .*its examples, labels differ"):
        require_one_data(CARD)


def test_a_directory_of_every_host_of_its_own_is_refused(two, tmp_path, monkeypatch):
    run = RunDirectory(tmp_path)
    require_shared(run)
    assert not list(tmp_path.iterdir())
    two["says"] = lambda value: [False, "node2"]
    with pytest.raises(RunError, match=r"process 1 on node2 does not see what process 0 on .* has written there"):
        require_shared(run)
    monkeypatch.setattr(several, "SEEN", 0.0)
    assert not several._reads(tmp_path / "missing", "x", seconds=0.3)
