"""What reads a run somebody else was at: it says so by name, and never takes it for what was written."""

from __future__ import annotations

import pytest

from resnet_jax.data.config import DataConfig
from resnet_jax.errors import DamagedError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runs.trained import load_run
from resnet_jax.training.config import TrainConfig
from tests.tools import write_run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run directory with a checkpoint."""
    config = RunConfig(
        model=ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,), norm_eps=1e-3),
        data=DataConfig("digits"),
        train=TrainConfig(batch_size=16),
    )
    path = tmp_path_factory.mktemp("runs") / "run"
    write_run(path, config)
    return path


def test_an_edited_network_is_not_evaluated_as_the_one_that_was_trained(place):
    path = place / "config.yaml"
    whole = path.read_text()
    for old, new, says in (
        ("norm_eps: 0.001", "norm_eps: 0.1", "model.norm_eps: 0.001 -> 0.1"),
        ("  norm_eps: 0.001\n", "", "model.norm_eps: 0.001 -> None"),
    ):
        assert old in whole
        path.write_text(whole.replace(old, new))
        for read in (load_run, lambda place: load_recipe(str(place / "config.yaml"))):
            with pytest.raises(DamagedError, match=rf"config.yaml is not what this run wrote:\n  {says}"):
                read(place)
    path.write_text(whole)
    assert load_run(place).model.config.norm_eps == 1e-3


@pytest.mark.parametrize("name", ["config.yaml", "data.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 100, b"\xff\xff"])
def test_what_cannot_be_read_is_read_from_the_second_copy_and_said(place, caplog, name, damage):
    path, before = place / name, load_run(place)
    whole = path.read_bytes()
    path.write_bytes(damage)
    again = load_run(place)
    assert (again.config, again.card) == (before.config, before.card)
    assert f"{name} is damaged (" in caplog.text
    assert path.read_bytes() == damage, "reading repairs nothing"
    path.write_bytes(whole)
