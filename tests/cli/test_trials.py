"""`lr-range`, `train --overfit-batches` and `train --fast-dev-run` as they are typed."""

from __future__ import annotations

import json

import pytest

from resnet_jax.cli.train import with_count

TINY = ("--model.stage-sizes", "1", "--model.widths", "4", "--train.batch-size", "16")


@pytest.fixture
def called(monkeypatch):
    """What the functions behind the options are called with; they do nothing."""
    seen = {}

    def overfit(config, batches, run_dir, *, length, console, origin):
        seen["overfit"] = (config.data.source, batches, run_dir, length)
        return {"passed": True}

    def dev(config, batches, *, console, origin):
        seen["dev"] = (config.data.source, batches)
        return {"passed": True}

    def lr_range(config, out, *, low, high, steps, seeds, console, stop):
        seen["range"] = (config.optim.learning_rate, str(out), low, high, steps, seeds)
        return {"steepest": 0.1}

    monkeypatch.setattr("resnet_jax.runs.overfit.overfit", overfit)
    monkeypatch.setattr("resnet_jax.runs.dev_run.fast_dev_run", dev)
    monkeypatch.setattr("resnet_jax.runs.lr_range.lr_range", lr_range)
    return seen


def test_trials_of_a_recipe_and_of_data(called, command, stripes):
    assert command("train", "digits", *TINY, "--overfit-batches", "2")[0] == 0
    assert called["overfit"] == ("digits", 2, None, None)
    assert command("train", "digits", "--overfit-batches", "1", "--train.length", "9 steps")[0] == 0
    assert called["overfit"][3] == "9 steps"
    assert command("train", "digits", "--fast-dev-run")[0] == 0
    assert called["dev"] == ("digits", 1)
    assert command("train", "--data", stripes, "--fast-dev-run", "3")[0] == 0
    assert called["dev"] == (f"npz:{stripes}", 3)
    assert command("train", "digits", "--data", stripes, "--overfit-batches", "1")[0] == 0
    assert called["overfit"][0] == f"npz:{stripes}"


def test_the_range_test_has_a_hyphen(called, command):
    status, out, err = command(
        "lr-range", "digits", "--from", "1e-4", "--to", "1", "--steps", "50", "--seeds", "3", "--json"
    )
    assert status == 0, err
    assert json.loads(out.splitlines()[-1]) == {"steepest": 0.1}
    assert called["range"] == (0.1, "runs/lr-range-digits", 1e-4, 1.0, 50, (0, 1, 2))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "digits", "--overfit-batches", "1", "--fast-dev-run"], "are trials of their own: give one of them"),
        (["train", "digits", "--fast-dev-run", "--check"], "--check is about the figure of a whole run"),
        (["train", "digits", "--overfit-batches", "1", "--check"], "and --overfit-batches makes none"),
        (["train", "digits", "--fast-dev-run", "--run-dir", "x"], "--fast-dev-run keeps nothing: leave out --run-dir"),
        (["train", "digits", "--overfit-batches", "0"], "overfit_batches is 1 or more batches, got 0"),
        (["lr-range", "digits", "--optim.schedule.kind", "cosine"], "leave out --optim.schedule.kind"),
        (["lr-range", "digits", "--train.length", "5 epochs"], "is --steps: leave out --train.length"),
        (["lr-range", "digits", "--from", "1", "--to", "0.1"], "from a rate above 0 to a higher one"),
    ],
)
def test_what_does_not_go_is_refused(words, said, command):
    status, _, err = command(*words)
    assert (status, said in err) == (2, True), err


def test_a_flag_without_a_number_is_one_batch():
    assert with_count([]) == []
    assert with_count(["digits", "--fast-dev-run"]) == ["digits", "--fast-dev-run", "1"]
    assert with_count(["digits", "--fast-dev-run=4", "--seed", "1"]) == ["digits", "--fast-dev-run=4", "--seed", "1"]
