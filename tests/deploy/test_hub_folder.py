"""A run as a folder for a hub, and back."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from resnet_jax.deploy.hub_folder import pull_run, push_run
from resnet_jax.errors import DataError, UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.trained import load_run
from resnet_jax.training.config import TrainConfig
from resnet_jax.training.ema import Averaging
from tests.tools import write_run


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    path = tmp_path_factory.mktemp("push")
    np.savez(path / "data.npz", x=np.zeros((60, 8, 8, 1), np.uint8), y=np.arange(60) % 3)
    config = RunConfig(
        model=ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,)),
        data=DataConfig(f"npz:{path / 'data.npz'}"),
        train=TrainConfig(batch_size=8, ema=Averaging(decay=0.9)),
    )
    write_run(path / "run", config)
    return path / "run", push_run(path / "run", path / "folder", licence="mit", card=False)


def test_what_is_pulled_is_the_run_to_the_bit(pushed, tmp_path):
    run, folder = pushed
    pull_run(folder, tmp_path / "again")
    before, after = load_run(run), load_run(tmp_path / "again")
    assert jax.tree.structure(before.variables) == jax.tree.structure(after.variables)
    for old, new in zip(jax.tree.leaves(before.variables), jax.tree.leaves(after.variables), strict=True):
        np.testing.assert_array_equal(old, new)
    assert (after.model, after.card, after.step) == (before.model, before.card, before.step)


def test_no_folder_of_the_machine_travels(pushed):
    run, folder = pushed
    for path in folder.rglob("*"):
        if path.is_file():
            assert str(run.parent).encode() not in path.read_bytes(), path.name


@pytest.mark.slow
def test_the_card_goes_along(pushed, tmp_path):
    run, _ = pushed
    folder = push_run(run, tmp_path / "folder", licence="mit")
    assert 'license: "mit"' in (folder / "README.md").read_text()
    assert "README.md" in (folder / "SHA256SUMS").read_text()
    assert str(run.parent) not in (folder / "README.md").read_text() + (folder / "card.json").read_text()


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "data.json"])
def test_a_changed_or_missing_file_is_refused_and_nothing_written(pushed, tmp_path, name):
    import shutil

    folder = tmp_path / "folder"
    shutil.copytree(pushed[1], folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-2] + b"\n\n")
    with pytest.raises(DataError, match=f"{name} is not what was pushed"):
        pull_run(folder, tmp_path / "out")
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name} cannot be read"):
        pull_run(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_in_use_and_others_are_refused(pushed, tmp_path):
    run, folder = pushed
    with pytest.raises(UsageError, match="is in use"):
        push_run(run, folder, licence="mit")
    with pytest.raises(DataError, match="is not a folder that weights push wrote"):
        pull_run(run, tmp_path / "out")
