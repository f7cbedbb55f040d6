"""The study: what it keeps, and that it proposes the same whoever asks and however often it was opened."""

from __future__ import annotations

import optuna
import pytest

from resnet_jax.errors import DamagedError, UsageError
from resnet_jax.search import study as study_module
from resnet_jax.search.allowance import Allowance
from resnet_jax.search.finalists import choose_finalists
from resnet_jax.search.halving import Rung
from resnet_jax.search.result import in_order
from resnet_jax.search.space import Dimension, Space
from resnet_jax.search.study import Study, require_optuna

SPACE = Space(
    (
        Dimension("optim.learning_rate", "log", (0.01, 1.0)),
        Dimension("data.repeats", "int", (1, 3)),
        Dimension("model.widths", "choice", ([8], [16])),
    )
)
HALF, END = Rung(5, 500_000), Rung(10, 1_000_000)


def opened(tmp_path, **options):
    return Study(tmp_path / "study.db", options.pop("space", SPACE), "max", options.pop("sampler", "tpe"), **options)


def finish(study, trial):
    study.report(trial.number, END, trial.values["optim.learning_rate"])
    study.end(trial.number, "complete")


@pytest.mark.parametrize(
    "sampler", ["tpe", pytest.param("random", marks=pytest.mark.slow), pytest.param("qmc", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_opened_again_it_proposes_what_it_would_have_proposed(tmp_path, sampler):
    (tmp_path / "a").mkdir()
    whole, cut = opened(tmp_path / "a", sampler=sampler, seed=3), opened(tmp_path, sampler=sampler, seed=3)
    for number in range(12):  # beyond the first ten, which are random whatever the sampler
        finish(whole, whole.ask())
        if number in (5, 11):
            cut.close()
            cut = opened(tmp_path, sampler=sampler, seed=3)
        finish(cut, cut.ask())
    assert cut.trials() == whole.trials()
    assert len({one.values["optim.learning_rate"] for one in cut.trials()}) == 12
    cut.close()
    whole.close()


def test_what_becomes_of_trials_is_kept(tmp_path):
    study = opened(tmp_path)
    numbers = [study.ask().number for _ in range(5)]
    study.report(0, HALF, 0.5)
    study.report(0, END, 0.7)
    study.end(0, "complete")
    study.report(1, HALF, 0.9)
    study.end(1, "stopped", "not among the best")
    study.end(2, "diverged", "diverged at update 3")
    study.end(3, "failed", "does not go together")
    study.report(4, HALF, 0.6)
    study.go_on(4, HALF)
    study.spend(Allowance(spent_before=12.5, needed=3.0, clock=lambda: 0.0))
    study.close()
    study = opened(tmp_path)
    trials = study.trials()
    assert [one.number for one in trials] == numbers == [0, 1, 2, 3, 4]
    assert [one.state for one in trials] == ["complete", "stopped", "diverged", "failed", "running"]
    assert [one.value for one in trials] == [0.7, 0.9, None, None, 0.6]
    assert [one.updates for one in trials] == [10, 5, 0, 0, 5]
    assert [one.reason for one in trials[1:4]] == ["not among the best", "diverged at update 3", "does not go together"]
    assert (trials[4].passed, study.seconds, study.needed, study.count) == (HALF.share, 12.5, 3.0, 5)
    assert [one.number for one in study.running()] == [4]
    best = study.best()  # one of the whole length, whatever others had on the way
    assert best is not None
    assert best.number == 0
    study.close()


def test_a_trial_is_told_once_and_measured_once(tmp_path):
    study = opened(tmp_path)
    study.ask()
    study.report(0, END, 0.7)
    study.report(0, END, 0.1)
    study.end(0, "complete")
    study.end(0, "diverged", "later")
    [trial] = study.trials()
    assert (trial.state, trial.value, trial.reason) == ("complete", 0.7, "")
    study.close()


def test_of_equal_trials_that_of_the_smaller_loss_is_the_best(tmp_path):
    study = opened(tmp_path)
    for number, (value, loss) in enumerate(((0.9, 0.3), (1.0, 0.5), (1.0, 0.2), (1.0, float("nan")), (0.95, 0.1))):
        study.ask()
        study.report(number, END, value, loss)
        study.end(number, "complete")
    best = study.best()
    assert best is not None
    assert [one.number for one in in_order(study.trials(), "max")] == [2, 1, 3, 4, 0]
    assert (best.number, best.loss) == (2, 0.2)
    study.close()


def test_the_best_of_finalists_is_that_of_the_best_mean(tmp_path):
    study = opened(tmp_path)
    for number, value in enumerate((1.0, 0.98, 0.9, 0.97)):
        study.ask()
        study.report(number, HALF if number == 3 else END, value, 1 - value)
        study.end(number, "stopped" if number == 3 else "complete")
    assert [one.number for one in choose_finalists(study.trials(), "max", 2)] == [0, 1]
    assert choose_finalists(study.trials(), "max", 1) == []
    for number, values in ((0, (0.9, 0.92)), (1, (0.98, 0.97))):
        for seed, value in zip((2000, 2001), values, strict=True):
            study.repeat(number, seed, value, 1 - value)
    study.close()
    study = opened(tmp_path)  # it is in the file
    best = study.best()
    assert best is not None
    assert (best.number, best.mean) == (1, pytest.approx((0.98 + 0.98 + 0.97) / 3))
    assert best.repeats[2001] == (0.97, pytest.approx(0.03))
    study.repeat(1, 2002, float("nan"), float("nan"))  # diverged: it is the best no more
    assert study.best().number == 0  # pyright: ignore[reportOptionalMemberAccess]
    study.close()


def test_static_choices_are_fixed_for_a_wave(tmp_path):
    study = opened(tmp_path)
    for _ in range(6):
        assert study.ask({"model.widths": [16]}).values["model.widths"] == [16]
    assert len({one.values["optim.learning_rate"] for one in study.trials()}) == 6
    study.close()


def test_a_process_killed_while_it_asks_leaves_a_trial_that_is_completed(tmp_path):
    study = opened(tmp_path)
    study._study.ask({"optim.learning_rate": SPACE.dimensions[0].distribution()})  # the others were not written yet
    before = study._study.trials[0].params["optim.learning_rate"]
    study.close()
    study = opened(tmp_path)
    [trial] = study.running()
    assert trial.values["optim.learning_rate"] == before
    assert set(trial.values) == set(SPACE.options)
    study.close()


def test_seeds_are_the_recipes_or_one_a_trial(tmp_path):
    for name, seeds, wanted in (("a", "same", [7, 7]), ("b", "each", [7, 8])):
        (tmp_path / name).mkdir()
        study = opened(tmp_path / name, space=Space(SPACE.dimensions, seeds), seed=7)
        assert [study.ask().seed, study.ask().seed] == wanted
        study.close()


@pytest.mark.slow  # scikit-learn is slow to import
def test_importance_finds_what_decides(tmp_path):
    study = opened(tmp_path, sampler="random")
    with pytest.raises(ValueError, match="four trials or more"):
        study.importances()
    for _ in range(20):
        trial = study.ask()
        study.report(trial.number, HALF, trial.values["data.repeats"] / 3)
        study.end(trial.number, "stopped")
    found, share = study.importances()
    assert share == 0.5
    assert max(found, key=lambda name: found[name]) == "data.repeats"
    assert sum(found.values()) == pytest.approx(1)
    study.close()


def test_a_file_that_is_no_study_is_named(tmp_path):
    (tmp_path / "study.db").write_text("this is no database, and long enough to see that it is none" * 9)
    with pytest.raises(DamagedError, match=r"study\.db is not a study"):
        opened(tmp_path)


def test_without_optuna_the_extra_is_named(monkeypatch):
    require_optuna()
    assert optuna.__version__ >= "4.5"
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UsageError, match="extra search"):
        study_module.require_optuna()
