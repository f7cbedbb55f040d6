"""``~`` is the home directory in every path that a user gives."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.ablation.directory import AblationDirectory
from resnet_jax.ablation.grid import load_cells
from resnet_jax.cli.depth_options import TargetOptions
from resnet_jax.cli.options import parse
from resnet_jax.depth.arrays import load_arrays, save_arrays
from resnet_jax.errors import UsageError
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runtime.paths import expand_paths, user_path
from resnet_jax.training.checkpoint import Checkpoints
from tests.cli.conftest import command, stripes  # noqa: F401


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory, and another one to be in; nothing called ``~`` may appear there."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert list((tmp_path / "here").iterdir()) == []


@dataclasses.dataclass(frozen=True)
class Inner:
    one: Path | None = None
    many: tuple[Path, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    text: str = "~/text"
    path: Path = Path("~/default")


def test_every_path_among_options_is_expanded(home):
    parsed = parse(Outer, ["--inner.one=~/a", "--inner.many", "~/b", "c/~"], verb="x", about="x")
    assert parsed == Outer(Inner(home / "a", (home / "b", Path("c/~"))), "~/text", home / "default")
    assert expand_paths({"x": [Path("~")]}) == {"x": [home]}
    same = Outer(Inner(Path("a")), path=Path("b"))
    assert expand_paths(same) is same
    assert parse(TargetOptions, ["x", "--out=~/o"], verb="x", about="x").out == home / "o"


def test_python_takes_it_too(home):
    assert RunDirectory(Path("~/run")).config == home / "run" / "config.yaml"
    assert AblationDirectory(Path("~/a")).definition == home / "a" / "ablation.yaml"
    (home / "r.yaml").write_text("train: {epochs: 3}\n")
    assert load_recipe("~/r.yaml").train.length == "3 epochs"
    (home / "cells.yaml").write_text("on: {model.norm: group}\n")
    assert load_cells(Path("~/cells.yaml")) == {"on": {"model.norm": "group"}}
    with Checkpoints(Path("~/c")) as checkpoints:
        assert checkpoints.steps("last") == []
    save_arrays(Numbers(np.arange(3)), "~/n.npz")
    np.testing.assert_array_equal(load_arrays(Numbers, "~/n.npz").values, np.arange(3))


@dataclasses.dataclass(frozen=True)
class Numbers:
    values: np.ndarray


def test_a_home_that_nobody_knows_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="~no-such-user/x: ~no-such-user stands for a home directory"):
        user_path("~no-such-user/x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~no-such-file.png").write_text("")
    assert user_path("~no-such-file.png") == Path("~no-such-file.png")


def test_import_export_and_fold_write_into_the_home(home):
    """What fails before anything is read fails about the right directory."""
    from resnet_jax.models.spec import ModelSpec
    from resnet_jax.runs.foreign import fold_run, import_weights

    for folder in ("used", "run"):
        (home / folder).mkdir()
        (home / folder / "file").write_text("")
    with pytest.raises(UsageError, match=r"home/used is in use"):
        import_weights(Path("~/x.pth"), ModelSpec(), Path("~/used"))
    with pytest.raises(UsageError, match=r"home/used is in use"):
        fold_run(Path("~/run"), Path("~/used"))


@pytest.mark.slow
def test_a_run_in_the_home(home, command, stripes):  # noqa: F811
    tiny = ["--model.stage-sizes", "1", "--model.widths", "4", "--train.length", "2 epochs", "--train.batch-size", "16"]
    status, _, err = command("train", "digits", "--data.source", f"npz:{stripes}", *tiny, "--run-dir=~/[x] $r$")
    assert status == 0, err
    run = home / "[x] $r$"
    assert json.loads((run / "summary.json").read_text())["run_dir"] == str(run)
    assert command("eval", "~/[x] $r$", "--logits=~/l.npy")[0] == 0
    assert (home / "l.npy").is_file()
    assert command("depth", "profile", "~/[x] $r$", "--batch", "4")[0] == 0
    assert command("depth", "lesion", "~/[x] $r$", "--batch", "8", "--draws", "2")[0] == 0
    assert command("depth", "profile", "~/[x] $r$", "--batch", "4")[0] == 0
    assert sorted(path.name for path in (run / "depth").iterdir()) == ["lesion", "profile"]
    assert command("weights", "export", "~/[x] $r$", "--format", "cifar", "--out=~/net.safetensors")[0] == 0
    assert (home / "net.safetensors").is_file()
    assert command("weights", "fold", "~/[x] $r$", "--out=~/folded")[0] == 0
    assert (home / "folded" / "config.yaml").is_file()
