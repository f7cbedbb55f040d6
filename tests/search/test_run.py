"""A search from end to end, of a network that trains in a moment: what it leaves, and that its trials are runs."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from typing import Any

import pytest

from resnet_jax.cli.main import run as run_command
from resnet_jax.errors import RunError, UsageError
from resnet_jax.runs.fit import fit
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.search import confirm
from resnet_jax.search.directory import Definition
from resnet_jax.search.run import search
from resnet_jax.search.space import parse_space
from resnet_jax.training.interrupt import Interrupted
from tests.search.conftest import tiny_config
from tests.tools import TINY

SPACE = {
    "optim.learning_rate": {"log": [0.01, 0.5]},
    "optim.momentum": {"range": [0.5, 0.95]},
    "seed": "each",
}


def definition(space=SPACE, eta=3, **train):
    base = tiny_config(**train)
    return Definition(base, parse_space(space, base, where="these tests"), "random", eta)


def rows_of(out):
    return list(csv.DictReader((out / "trials.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_network):
    out = tmp_path_factory.mktemp("searches") / "whole"
    return out, search(definition(), out, trials=5, lanes=3)


@pytest.mark.slow
def test_the_result_and_the_directory_have_what_was_promised(whole):
    out, result = whole
    assert result["trials"] | {"running": 0} == {
        "complete": result["trials"]["complete"], "stopped": 5 - result["trials"]["complete"], "diverged": 0,
        "failed": 0, "unfinished": 0, "running": 0,
    }  # fmt: skip
    assert 1 <= result["trials"]["complete"] < 5
    files = {path.name for path in out.iterdir()} - {".lock", ".written.json"}
    assert files == {
        "search.yaml", "study.db", "data.json", "trials.csv", "table.md", "best.yaml", "parallel.png",
        "importance.png", "history.png",
    }  # fmt: skip
    rows = rows_of(out)
    assert [(row["trial"], row["seed"]) for row in rows] == [(str(number), str(number)) for number in range(5)]
    assert {row["updates"] for row in rows} == {"9", "27"}
    best = rows[result["best"]["trial"]]
    assert float(best["val_accuracy"]) == max(float(row["val_accuracy"]) for row in rows if row["updates"] == "27")
    config = load_recipe(str(out / "best.yaml"))
    assert config.optim.learning_rate == result["best"]["values"]["optim.learning_rate"] == float(
        best["optim.learning_rate"]
    )  # fmt: skip
    assert config.seed == result["best"]["seed"]
    assert "| 4 | " in (out / "table.md").read_text()
    for name in ("parallel", "importance", "history"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_and_another_is_refused(whole):
    out, result = whole
    before = rows_of(out)
    again = search(definition(), out, trials=5, lanes=3)
    assert again | {"seconds": 0} == result | {"seconds": 0}
    assert again["seconds"] < result["seconds"] + 30
    assert rows_of(out) == before
    with pytest.raises(RunError, match=r"holds another search:\n  eta: 3 -> 1"):
        search(definition(eta=1), out, trials=5)
    with pytest.raises(RunError, match=r"space.optim.learning_rate: .*log.* -> "):
        search(definition({**SPACE, "optim.learning_rate": {"log": [0.01, 1]}}), out, trials=5)
    with pytest.raises(RunError, match=r"base.train.length: 3 epochs -> 2 epochs"):
        search(definition(length="2 epochs"), out, trials=5)


def test_what_cannot_be_searched_is_said_before_a_trial_is_begun(tiny_network, tmp_path):
    for given, message in (
        ({}, "say how long to search"),
        ({"budget": "5 epochs"}, "is a time on the clock"),
        ({"trials": 0}, "trials must be 1 or more"),
        ({"trials": 1, "lanes": 0}, "lanes must be 1 or more"),
    ):
        with pytest.raises(UsageError, match=message):
            search(definition(), tmp_path / "x", **given)
    with pytest.raises(UsageError, match=r"train\.test_views goes with a run alone"):
        search(definition(test_views="flip"), tmp_path / "x", trials=1, confirm_seeds=2)
    without = definition()
    data = dataclasses.replace(without.base.data, val_fraction=0.0)
    with pytest.raises(UsageError, match=r"data\.val_fraction above 0"):
        search(
            dataclasses.replace(without, base=dataclasses.replace(without.base, data=data)), tmp_path / "x", trials=1
        )
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_trial_of_the_whole_length_is_the_training_run_of_its_values(tiny_network, tmp_path):
    """The best as ``train best.yaml`` trains it: the same validation within rounding."""
    out = tmp_path / "x"
    result = search(definition(eta=1), out, trials=3, lanes=3)
    assert result["trials"]["complete"] == 3
    fitted = fit(load_recipe(str(out / "best.yaml")), tmp_path / "run")
    [last] = [row for row in fitted.history.epochs if row["step"] == 27]
    images = 180  # of validation: one may fall to the other side
    assert abs(last["val_accuracy"] - result["best"]["val_accuracy"]) <= 1.5 / images


@pytest.mark.slow
def test_choices_that_no_array_carries_come_in_waves(tiny_network, tmp_path):
    space = {**SPACE, "model.norm": {"choice": ["batch", "group"]}, "train.batch_size": {"choice": [64, 128]}}
    out = tmp_path / "x"
    result = search(definition(space), out, trials=14, lanes=2)
    assert sum(result["trials"].values()) == 14
    assert result["trials"]["unfinished"] == 0
    rows = rows_of(out)
    together = [(row["model.norm"], row["train.batch_size"]) for row in rows]
    waves = 1 + sum(a != b for a, b in itertools.pairwise(together))
    assert waves <= 3
    assert not (out / "checkpoints").exists()


@pytest.mark.slow
def test_the_best_is_confirmed_with_seeds_of_its_own(tiny_network, tmp_path, monkeypatch):
    out, begun = tmp_path / "x", []
    train = confirm.train_cell

    def cut_short(job, result):
        begun.append(job.run.path.name)
        if len(begun) == 2:
            job.stop.signal = signal.SIGTERM
        return train(job, result)

    monkeypatch.setattr(confirm, "train_cell", cut_short)
    with pytest.raises(Interrupted):
        search(definition(), out, trials=3, lanes=3, confirm_seeds=2)
    assert not (out / "confirm.json").exists()
    cut, best = json.loads((out / "confirm/recipe/result.json").read_text()), begun[1]
    assert (begun[0], best[:6]) == ("recipe", "trial-")
    result = search(definition(), out, trials=3, lanes=3, confirm_seeds=2)
    assert begun[2:] == [best], "what was finished is not trained again"
    found = result["confirmed"]
    assert found == json.loads((out / "confirm.json").read_text())
    assert found["seeds"] == [1000, 1001]
    assert found["recipe"]["values"] == [*cut["values"].values()]
    assert found["difference"]["mean"] == pytest.approx(found["best"]["mean"] - found["recipe"]["mean"])
    more = search(definition(), out, trials=3, lanes=3, confirm_seeds=3)["confirmed"]
    assert more["recipe"]["values"][:2] == found["recipe"]["values"]
    rows = [json.loads(line) for line in (out / "confirm/recipe/metrics.jsonl").read_text().splitlines()]
    epochs = [row["seed"] for row in rows if row["kind"] == "epoch"]
    assert {seed: epochs.count(seed) for seed in {*epochs}} == dict.fromkeys((1000, 1001, 1002), 3)


@pytest.mark.slow
def test_a_process_that_is_killed_and_typed_again_loses_and_doubles_no_trial(tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("optim.learning_rate: {log: [0.01, 0.5]}\noptim.momentum: {range: [0.5, 0.95]}\n")
    command = [
        sys.executable, "-m", "resnet_jax", "search", "digits", "--space", str(space), "--trials", "12", "--lanes",
        "3", "--train.length", "3 epochs", *TINY, "--sampler", "random", "--json",
    ]  # fmt: skip
    environment = {**os.environ, "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}
    whole = subprocess.run(
        [*command, "--out", str(tmp_path / "whole")], env=environment, capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "killed"
    kills = 0
    for ended in (1, 4, 7):  # killed when so many trials have ended
        how: Any = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen([*command, "--out", str(out)], **how) as process:
            assert process.stderr is not None
            seen = 0
            for line in process.stderr:
                seen += bool(re.match(r"trial \d+:", line))
                if seen >= ended:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
                    break
    last = subprocess.run([*command, "--out", str(out)], env=environment, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert kills >= 2
    mine, theirs = rows_of(out), rows_of(tmp_path / "whole")
    assert [row["trial"] for row in mine] == [str(number) for number in range(12)]
    assert all(row["state"] in ("complete", "stopped", "diverged") for row in mine)
    for name in ("optim.learning_rate", "optim.momentum", "seed"):
        assert [row[name] for row in mine] == [row[name] for row in theirs]
    for a, b in zip(mine, theirs, strict=True):  # those measured at the same rung measured the same, within rounding
        if a["updates"] == b["updates"]:
            assert abs(float(a["val_accuracy"]) - float(b["val_accuracy"])) <= 3.5 / 180


def test_a_search_without_a_space_says_what_one_looks_like(capsys):
    assert run_command(["search", "digits", "--trials", "1"]) == 2
    assert "a search needs --space FILE" in capsys.readouterr().err
