"""The verb ``recipes``, and recipes that are compared with what they promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resnet_jax.errors import UsageError
from resnet_jax.runs.recipes import list_recipes
from tests.cli.conftest import last_json
from tests.tools import TINY


def test_the_table_has_every_recipe(command):
    status, out, _ = command("recipes")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines[1:-1]] == list_recipes()
    assert "99.16 ± 1.2 %" in out
    status, out, err = command("recipes", "--json")
    assert [row["name"] for row in last_json(out)] == list_recipes()
    assert "99.16 ± 1.2 %" in err


def test_one_in_full(command):
    status, out, _ = command("recipes", "cifar10-resnet110")
    assert status == 0
    for part in (
        "section 4.2",
        "93.39 %",
        "no figure yet",
        "schedules here",
        "train.length 24 steps",
        "64000 steps",
    ):
        assert part in out
    row = last_json(command("recipes", "digits", "--json")[1])
    assert row["about"]["expected"] == {"metric": "accuracy", "value": 0.9916, "tolerance": 0.012, "seeds": 1}
    assert row["config"]["train"]["length"] == "15 epochs"
    status, _, err = command("recipes", "digist")
    assert (status, "'digits'" in err, "`resnet-jax recipes` lists all" in err) == (2, True, True)


def recipe(folder: Path, expected: float) -> Path:
    folder.mkdir()
    path = folder / "mine.yaml"
    figures = f"{{metric: accuracy, value: {expected}, tolerance: 0.4}}"
    path.write_text(
        "extends: digits\nmodel: {stage_sizes: [1], widths: [8]}\ntrain: {length: 6 steps}\n"
        "optim: {schedule: {kind: constant, warmup: null}}\n"
        f"about: {{what: small, source: me, expected: {figures}}}\n"
    )
    return path


def test_a_run_is_compared_with_what_its_recipe_expects(tmp_path, command):
    for name, expected, status in (("low", 0.3, 0), ("high", 1.0, 1)):  # the second finds the run of the first
        path = recipe(tmp_path / name, expected)
        found, out, err = command("train", path, "--check", "--json", "--run-dir", tmp_path / "run")
        assert found == status, err
        result = last_json(out)
        assert (result["check"]["passed"], result["check"]["expected"]) == (status == 0, expected)
        assert result["check"]["value"] == result["test_accuracy"]
        assert f"check {'FAILED' if status else 'passed'}: test accuracy" in err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["cifar10-resnet20", "--check"], "recipe cifar10-resnet20 has no expected figure"),
        (["digits", "--check", "--optim.learning-rate", "0.2"], "this run differs: optim.learning_rate: 0.1 -> 0.2"),
        (["--data", "x.npz", "--smoke"], "--smoke goes with a recipe"),
        (["--data", "x.npz", "--check"], "--check goes with a recipe"),
    ],
)
def test_what_cannot_be_checked_is_refused_before_it_is_trained(command, monkeypatch, argv, said):
    monkeypatch.setattr("resnet_jax.runs.fit.fit", lambda *_, **__: pytest.fail("trained"))
    status, _, err = command("train", *argv)
    assert (status, said in err) == (2, True), err


def test_a_smoke_run_is_the_recipe_on_data_that_is_there(command, monkeypatch):
    given = []

    def fit(config, *_, origin, **__):
        given.append((config, origin.recipe.train.length))
        raise UsageError("enough")

    monkeypatch.setattr("resnet_jax.runs.fit.fit", fit)
    _, out, _ = command("train", "cifar10-resnet20", "--smoke", "--check", "--train.length", "8 steps")
    assert "Smoke run of recipe cifar10-resnet20, whose figures are not the recipe's: data.source digits" in out
    ((config, whole),) = given
    assert (config.data.source, config.train.limit, config.model.changes["stage_sizes"]) == ("digits", None, (1, 1, 1))
    assert (config.train.length, whole) == ("8 steps", "183 epochs"), "what is typed goes before"
    assert config.optim.weight_decay == 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("length", ["8 steps", "1 steps"])
def test_a_smoke_run_fails_where_the_loss_does_not_fall(length, tmp_path, command):
    argv = ["train", "cifar10-resnet20", "--smoke", "--check", *TINY, "--train.length", length, "--json"]
    status, out, _ = command(*argv, "--run-dir", tmp_path / "run")
    check = last_json(out)["check"]
    assert (status == 0) == check["passed"] == (check.get("last_loss", 9) < check.get("first_loss", 9))
    assert check["losses"] == int(length.split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_learns_in_seconds(name, tmp_path, command):
    status, out, err = command("train", name, "--smoke", "--check", "--json", "--run-dir", tmp_path / "run")
    assert status == 0, err
    assert json.loads(out)["check"]["passed"]
