"""``resnet-jax finetune``: its stages, killed and gone on with, and what it says of wrong usage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.build import build_model
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.outcome import Summary
from resnet_jax.weights import from_variables, save_safetensors
from tests.cli.conftest import last_json
from tests.tools import random_variables, write_network

#: One block, no batch norm: compiled in a moment.
SMALL = ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,), norm="none")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Digits 5 to 9, and a network of random weights for 0 to 4."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("finetune")
    digits = load_digits()
    keep = (digits.target >= 5) & (np.arange(len(digits.target)) < 700)
    images = (digits.images[keep] * 15.9).astype(np.uint8)[..., None]
    names = np.array(list("56789"))
    np.savez(folder / "high.npz", x=images, y=digits.target[keep] - 5, class_names=names)
    card = DatasetInfo(tuple("01234"), (8, 8, 1), (0.3,), (0.37,), {"train": 90})
    config = RunConfig(model=SMALL, data=DataConfig(image_size=None))
    write_network(folder / "low", config, card, random_variables(build_model(config, card), (8, 8, 1)))
    return folder


class FakeFit:
    """A training that says how it went, and that it was done before."""

    def __init__(self, accuracies: dict[str, float]):
        self.accuracies, self.trained = accuracies, []

    def __call__(self, config, run_dir, **_):
        stage, seed = run_dir.name, config.seed
        self.trained.append((f"{run_dir.parent.name}/{stage}", config))
        accuracy = self.accuracies[stage] + 0.001 * seed
        steps = int(config.train.length.split()[0])
        summary = Summary(accuracy, 1, 70, 0.1, 0.9, steps, "steps", "last", 1.0, 2.0, "abc", str(run_dir))
        return type("Fitted", (), {"summary": summary})


@pytest.mark.slow
def test_every_stage_starts_from_the_one_before_and_the_table_says_what_it_came_to(
    place, tmp_path, command, monkeypatch
):
    fake = FakeFit({"head": 0.5, "all": 0.99, "scratch": 0.4})
    monkeypatch.setattr("resnet_jax.runs.finetune_run.fit", fake)
    argv = ("finetune", place / "low", "--data", place / "high.npz", "--out", tmp_path / "out", "--json")
    argv = (*argv, "--train.length", "50 steps", "--train.batch-size", "16", "--head-share", "0.3", "--scratch")
    status, out, err = command(*argv, "--seeds", "2")
    assert status == 0, err
    result = last_json(out)
    assert [row["stage"] for row in result["rows"]] == ["before", "probe", "head", "all", "scratch"]
    assert [name for name, _ in fake.trained] == [
        f"seed{seed}/{stage}" for seed in (0, 1) for stage in ("head", "all", "scratch")
    ]
    head, whole, scratch = (config for _, config in fake.trained[:3])
    assert (head.train.length, whole.train.length, scratch.train.length) == ("15 steps", "35 steps", "50 steps")
    assert head.init_from == str(tmp_path / "out" / "probe" / "network")
    assert (whole.init_from, whole.init_head) == (str(tmp_path / "out" / "seed0" / "head"), "exact")
    assert (scratch.init_from, whole.optim.freeze) == (None, ())
    assert {"stem", "stage1"} <= set(head.optim.freeze)
    rows = {row["stage"]: row for row in result["rows"]}
    assert rows["all"]["accuracy"] == [0.99, 0.991]
    probe = rows["probe"]["accuracy"][0]
    assert 0.5 < probe < 1, "random features of real digits tell a lot"
    assert rows["before"]["what"].startswith("the network has other classes")
    assert result["beats_probe"] == (probe < 0.9905)
    assert (tmp_path / "out" / "table.md").read_text().count("\n| ") == 1 + 5
    for part in (
        "test accuracy",
        "linear probe",
        "init_head",
        "the linear probe's",
        "The classifier alone for 15 of 50",
    ):
        assert part in err

    fake.trained.clear()  # the same command, with one seed more: nothing is looked at, chosen or computed again
    for name in ("look_at", "load_images", "look_ahead"):
        monkeypatch.setattr(f"resnet_jax.runs.finetune_run.{name}", lambda *_: pytest.fail("again"))
    monkeypatch.setattr("resnet_jax.runs.finetune_probe.fit_probe", lambda *_, **__: pytest.fail("again"))
    status, out, err = command(*argv, "--seeds", "3")
    assert (status, last_json(out)["rows"][1]) == (0, rows["probe"]), err
    assert len(fake.trained) == 9, "fit itself says which of them are finished"
    assert [config for _, config in fake.trained[:3]] == [head, whole, scratch]

    status, _, err = command(*argv, "--optim.learning-rate", "0.5")
    assert (status, "contains another fine-tuning" in err, "0.5" in err) == (1, True, True)


def test_the_probe_is_a_run_directory_of_its_own(place, tmp_path, command, monkeypatch):
    monkeypatch.setattr("resnet_jax.runs.finetune_run.fit", FakeFit({"head": 0.1}))
    argv = ("finetune", place / "low", "--data", place / "high.npz", "--out", tmp_path / "out", "--method", "linear")
    status, out, _ = command(*argv, "--train.length", "5 steps", "--json")
    result = last_json(out)
    assert (status, result["beats_probe"]) == (0, False)
    assert "Training the classifier does NOT beat the linear probe" in result["verdict"]
    network = tmp_path / "out" / "probe" / "network"
    status, out, err = command(
        "eval", network, "--data.source", f"npz:{place / 'high.npz'}", "--split", "all", "--json"
    )
    assert status == 0, err
    assert last_json(out)["accuracy"] > result["rows"][1]["mean"] - 0.1
    assert RunDirectory(network).read_data().class_names == tuple("56789")


@pytest.mark.slow
def test_a_weights_file_is_imported_first_and_a_known_class_list_keeps_its_classifier(
    place, tmp_path, command, monkeypatch
):
    fake = FakeFit({"all": 0.5})
    monkeypatch.setattr("resnet_jax.runs.finetune_run.fit", fake)
    model = build_model(RunConfig(model=SMALL), DatasetInfo(tuple("56789"), (8, 8, 1), (), (), {}))
    tensors = from_variables(random_variables(model, (8, 8, 1)), model, "torchvision")
    save_safetensors(tensors, tmp_path / "net.safetensors")
    (tmp_path / "names.txt").write_text("5\n6\n7\n8\n9\n")
    given = ("--model", "resnet20_cifar", "--model.stage-sizes", "1", "--model.widths", "4", "--model.norm", "none")
    argv = (
        "finetune",
        tmp_path / "net.safetensors",
        "--data",
        place / "high.npz",
        "--run-dir",
        tmp_path / "out",
        *given,
    )
    argv = (*argv, "--model.in-channels", "1", "--model.num-classes", "5", "--class-names", tmp_path / "names.txt")
    status, _, err = command(*argv, "--data.mean", "0.3", "--data.std", "0.4", "--head-share", "0", "--json")
    assert status == 0, err
    ((name, config),) = fake.trained
    assert (name, config.init_head) == ("seed0/all", "exact")
    assert config.init_from == str(tmp_path / "out" / "source")
    assert "whose classes match" in json.loads((tmp_path / "out" / "table.json").read_text())["rows"][0]["what"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["low"], "say what to fine-tune on: resnet-jax finetune RUN_OR_WEIGHTS --data PATH"),
        (["nowhere", "--data", "high.npz"], "there is no such run directory or weights file"),
        (["high.npz", "--data", "nowhere"], "weights are read from PyTorch"),
        (["low", "--data", "nowhere"], "there is no such file or folder"),
        (["low", "--data", "high.npz", "--init-from", "x"], "--init-from does not go with finetune"),
        (["low", "--data", "high.npz", "--data.source", "x"], "--data.source does not go with finetune"),
        (["low", "--data", "high.npz", "--head-share", "1.5"], "head_share must be in [0, 1]"),
        (["low", "--data", "high.npz", "--method", "bitt"], "did you mean 'bit'"),
        (["low", "--data", "high.npz", "--model.name", "resnet18"], "is a resnet20_cifar and cannot start resnet18"),
        (["low", "--data", "high.npz", "--model.widths", "8"], "cannot start"),
        (["low", "--data", "high.npz", "--out", "low"], "is a run directory; name another one"),
    ],
)
def test_wrong_usage_is_one_line(place, tmp_path, command, monkeypatch, argv, said):
    monkeypatch.setattr("resnet_jax.runs.finetune_run.fit", lambda *_, **__: pytest.fail("trained"))
    argv = [str(place / word) if word in ("low", "high.npz") else word for word in argv]
    out = () if "--out" in argv else ("--out", tmp_path / "out")
    status, _, err = command("finetune", *argv, *out)
    assert (status != 0, said in err) == (True, True), err


def finetune_in_a_process(place: Path, out: Path, programs: dict[str, str], *more: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "resnet_jax", "finetune", place / "low", "--data", place / "high.npz", "--out", out]
    how = ["--seeds", "2", "--scratch", "--train.length", "60 steps", "--train.save-every", "5 steps", *more]
    return subprocess.Popen(
        [*map(str, argv), *how, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **programs},
    )


@pytest.mark.slow
def test_killed_in_any_stage_it_goes_on_to_the_same_table(place, tmp_path, programs):
    def digests(out: Path) -> dict[str, str]:
        runs = sorted(path.parent for path in out.glob("seed*/*/summary.json"))
        return {
            str(run.relative_to(out)): json.loads((run / "summary.json").read_text())["params_digest"] for run in runs
        }

    whole = finetune_in_a_process(place, tmp_path / "whole", programs)
    out, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    expected = last_json(out)
    kills = ("probe", "seed0/head/checkpoints/last/5", "seed0/all/checkpoints/last/10", "seed1/scratch/config.yaml")
    for wanted in kills:
        child = finetune_in_a_process(place, tmp_path / "cut", programs)
        until = time.monotonic() + 120
        while not (tmp_path / "cut" / wanted).exists():
            assert child.poll() is None, f"{wanted}: {child.communicate()[1]}"
            assert time.monotonic() < until, wanted
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.communicate()
    child = finetune_in_a_process(place, tmp_path / "cut", programs)
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    found = last_json(out)
    assert [row["accuracy"] for row in found["rows"]] == [row["accuracy"] for row in expected["rows"]]
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    assert len(digests(tmp_path / "cut")) == 6
    for picture in ("probe/confusion.png", "seed1/all/curves.png", "seed0/scratch/confusion.png"):
        assert (tmp_path / "cut" / picture).is_file()


@pytest.mark.slow
def test_the_frozen_part_of_the_head_s_stage_stays_to_the_last_bit(place, tmp_path, command):
    from resnet_jax.runs.trained import load_run

    config = RunConfig(model=ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,)))
    card = DatasetInfo(tuple("01234"), (8, 8, 1), (0.3,), (0.37,), {"train": 90})
    source = random_variables(build_model(config, card), (8, 8, 1))
    write_network(tmp_path / "net", config, card, source)
    argv = ("finetune", tmp_path / "net", "--data", place / "high.npz", "--out", tmp_path / "out")
    status, _, err = command(*argv, "--train.length", "20 steps", "--train.batch-size", "16")
    assert status == 0, err
    head, whole = (load_run(tmp_path / "out" / "seed0" / stage).variables for stage in ("head", "all"))
    for part in ("params", "batch_stats"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(source[part]):
            if path[0].key == "head":
                continue
            np.testing.assert_array_equal(leaf, _at(head[part], path))
            assert not np.array_equal(leaf, _at(whole[part], path)), path


def _at(tree, path):
    for part in path:
        tree = tree[part.key]
    return np.asarray(tree)
