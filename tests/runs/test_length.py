"""A run directory asked for with another length: what goes on, what is refused, and that nothing is lost."""

from __future__ import annotations

import dataclasses
import json

import pytest

from resnet_jax.errors import RunError
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.length import Origin, adopt, earlier_tests, settle
from resnet_jax.runs.recipes import load_recipe


def digits(epochs=15, **train):
    config = load_recipe("digits")
    return dataclasses.replace(config, train=dataclasses.replace(config.train, length=f"{epochs} epochs", **train))


@pytest.fixture
def made(tmp_path):
    """A directory that has made some updates of a run, 19 to the epoch."""

    def make(config, done, finished=None):
        run = RunDirectory.open(tmp_path / f"run{config.train.length}", settle_new(tmp_path, config).config)
        run.write_data(DatasetInfo(("0", "1"), (8, 8, 1), (0.5,), (0.5,), {"train": 1258, "val": 180, "test": 359}))
        (run.checkpoints / "last" / str(done)).mkdir(parents=True)
        if finished:
            run.write_summary({"finished": finished, "steps": done})
        return run

    return make


def settle_new(tmp_path, config):
    return settle(RunDirectory(tmp_path / "none"), config, Origin.of(config), 19)


def ask(run, config, origin=None):
    assert run.steps_per_epoch(config.train.batch_size) == 19
    return settle(run, config, origin or Origin.of(config), 19)


def test_a_finished_run_goes_on_when_more_epochs_are_asked_for(made):
    run = made(digits(15), 285, "steps")
    settled = ask(run, digits(30))
    assert settled.change is not None
    assert (settled.change.before.steps, settled.change.after.steps, settled.change.done) == (285, 570, 285)
    adopt(run, settled.change, settled.config)
    assert run.read_config().train.length == "30 epochs"
    assert run.read_summary() is None
    assert earlier_tests(run) == [285]
    assert json.loads((run.path / "summary-285.json").read_text())["steps"] == 285
    assert ask(run, digits(30)).change is None, "killed in the extension and typed again, it is the same run"


def test_so_does_an_unfinished_one_and_one_whose_warm_up_was_shortened_for_its_length(made):
    assert ask(made(digits(15), 100), digits(30)).change is not None
    short = digits(1)
    run = made(short, 19, "steps")
    assert run.read_config().optim.schedule.warmup == "1 steps"
    settled = ask(run, digits(15))
    assert settled.change is not None
    assert settled.config.optim.schedule.warmup == "1 epochs"


def test_fewer_epochs_than_done_are_refused_with_the_reason(made):
    with pytest.raises(RunError, match=r"has made 285 updates \(15 epochs\), and 190 are asked for"):
        ask(made(digits(15), 285, "steps"), digits(10))


def test_a_run_that_stopped_early_is_not_made_longer(made):
    with pytest.raises(RunError, match="ended by early stopping after 95 updates"):
        ask(made(digits(15), 95, "early stopping"), digits(30))


def test_anything_else_that_differs_is_another_run(made):
    config = digits(30)
    other = dataclasses.replace(config, optim=dataclasses.replace(config.optim, learning_rate=0.2))
    with pytest.raises(RunError, match=r"optim\.learning_rate: 0\.1 -> 0\.2"):
        ask(made(digits(15), 285, "steps"), other)


def test_another_limit_that_changes_no_length_is_the_same_run(made):
    run = made(digits(15, limit="100 steps"), 100, "steps")
    settled = ask(run, digits(20, limit="100 steps"))
    assert settled.change is None
    assert settled.config == run.read_config()


def test_fixup_trains_its_scalars_slowly_and_warms_up_unless_it_is_told_otherwise(tmp_path):
    config = digits()
    fixup = dataclasses.replace(config, model=config.model.replace(norm="none", residual="fixup"))
    settled = settle_new(tmp_path, fixup)
    assert settled.config.optim.role_rates == (("scalar", 0.1),)
    assert settled.config.optim.schedule.warmup == "5 epochs"
    assert any("scalars at 0.1 of the rate" in line for line in settled.adapted)
    again = settle(RunDirectory(tmp_path / "none"), settled.config, Origin(settled.config), 19)
    assert (again.config, again.adapted) == (settled.config, ()), "its config.yaml reproduces it"
    chosen = dataclasses.replace(fixup, optim=dataclasses.replace(fixup.optim, role_rates=(("scalar", 1.0),)))
    told = settle(RunDirectory(tmp_path / "none"), chosen, Origin(config, frozenset({"warmup"})), 19)
    assert told.config == chosen
    named = dataclasses.replace(config, model=config.model.replace(name="fixup_resnet20_cifar"))
    assert settle_new(tmp_path, named).config.optim.role_rates == (("scalar", 0.1),)
    assert settle_new(tmp_path, config).config == config


def test_sgd_trains_log_variances_slowly_unless_it_is_told_otherwise(tmp_path):
    config = with_values(load_recipe("digits-multitask"), {"task.weighting": "uncertainty"})
    settled = settle_new(tmp_path, config)
    assert settled.config.optim.role_rates == (("log_variance", 0.01),)
    assert any("log variances at 0.01 of the rate" in line for line in settled.adapted)
    both = settle_new(tmp_path, with_values(config, {"model.norm": "none", "model.residual": "fixup"}))
    assert both.config.optim.role_rates == (("log_variance", 0.01), ("scalar", 0.1))
    for untouched in (
        {"optim.role_rates": [["log_variance", 1.0]]},
        {"optim.name": "adam"},
        {"task.weighting": "fixed"},
    ):
        chosen = with_values(config, untouched)
        assert settle_new(tmp_path, chosen).config.optim.role_rates == chosen.optim.role_rates
