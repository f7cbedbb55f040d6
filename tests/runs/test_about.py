"""What a recipe says about itself, read and refused; and whether a run keeps what it promises."""

from __future__ import annotations

import dataclasses

import pytest

from resnet_jax.errors import UsageError
from resnet_jax.runs.about import About, Expected, Published, read_about
from resnet_jax.runs.outcome import Summary
from resnet_jax.runs.promise import check_figure, check_smoke, require_as_shipped, require_expected, smoke_config
from resnet_jax.runs.recipes import load_recipe

RAW = {"what": "a net", "source": "a paper, table 1"}
DONE = Summary(0.9, 90, 100, 0.5, None, 10, "steps", "last", None, 1.0, "0" * 64, "runs/x", metrics={"accuracy": 0.9})


def test_all_of_it_is_read():
    raw = {
        **RAW, "published": {"metric": "accuracy", "value": 0.9125}, "machine": "2 cores", "minutes": 3,
        "expected": {"metric": "accuracy", "value": 0.9, "tolerance": 0.01, "seeds": 3}, "command": "train x",
        "differs": ["no PCA noise"], "smoke": {"train.length": "2 steps"}, "measured": "nothing",
    }  # fmt: skip
    about = read_about(raw, where="x")
    assert about.published == Published("accuracy", 0.9125)
    assert about.expected == Expected("accuracy", 0.9, 0.01, 3)
    assert (about.minutes, about.differs, about.smoke) == (3, ("no PCA noise",), {"train.length": "2 steps"})
    assert read_about(about.to_json(), where="x") == about


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "x: about must be a mapping"),
        ({"what": "a net"}, "about.source is missing"),
        ({**RAW, "what": " "}, "about.what must say something"),
        ({**RAW, "expcted": {}}, "unknown about key 'expcted'; did you mean 'expected'"),
        ({**RAW, "expected": {"metric": "accuracy", "valu": 1}}, "unknown about.expected key 'valu'"),
        ({**RAW, "expected": {"metric": "accuracy", "value": 0.9}}, "about.expected.tolerance is missing"),
        ({**RAW, "expected": {"metric": "accuracy", "value": 0.9, "tolerance": 0}}, "about.expected.tolerance must be"),
        ({**RAW, "expected": {"metric": "r2", "value": 0.9, "tolerance": 1, "seeds": 0}}, "expected.seeds must be"),
        ({**RAW, "published": {"metric": "accuracy", "value": 91.25}}, "published.value of an accuracy is a"),
        ({**RAW, "published": {"metric": "r2", "value": float("nan")}}, "published.value must be a finite"),
        ({**RAW, "minutes": -1}, "about.minutes must be positive"),
        ({**RAW, "smoke": {"train.lenght": "2 steps"}}, "in about.smoke 'train.lenght'; did you mean 'train.length'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(raw, message):
    with pytest.raises(UsageError) as error:
        read_about(raw, where="x")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("value", "tolerance", "passed"),
    [(0.9, 0.001, True), (0.91, 0.01, True), (0.911, 0.01, False), (0.88, 0.01, False)],
)
def test_a_figure_is_compared_both_ways(value, tolerance, passed):
    verdict = check_figure(DONE, Expected("accuracy", value, tolerance))
    assert (verdict.passed, "FAILED" in verdict.said) == (passed, not passed)
    assert "90.00%" in verdict.said


def test_a_figure_of_another_metric():
    assert check_figure(DONE, Expected("loss", 0.5, 0.1)).passed
    assert not check_figure(dataclasses.replace(DONE, metrics={"r2": None}), Expected("r2", 0.5, 0.1)).passed
    with pytest.raises(UsageError, match="'auc', and this run has accuracy, loss"):
        check_figure(DONE, Expected("auc", 0.5, 0.1))


@pytest.mark.parametrize(
    ("losses", "finished", "passed"),
    [
        ([2.0, 2.5, 1.0, 0.9], "steps", True),
        ([2.0, 2.5, 1.0, 2.0], "steps", False),
        ([2.0, float("nan"), 1.0], "steps", False),
        ([2.0], "steps", False),
        ([], "steps", False),
        ([2.0, 1.0], "time limit", False),
    ],
)
def test_a_smoke_run_ends_and_learns(losses, finished, passed):
    assert check_smoke(losses, finished).passed is passed


def test_only_the_recipe_itself_is_checked():
    recipe = load_recipe("digits")
    require_as_shipped(recipe, dataclasses.replace(recipe, seed=3))
    other = dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, learning_rate=0.2))
    with pytest.raises(UsageError, match=r"this run differs: optim.learning_rate: 0.1 -> 0.2"):
        require_as_shipped(recipe, other)


def test_what_a_recipe_does_not_say_is_refused():
    for about in (None, About("a net", "a paper")):
        with pytest.raises(UsageError, match="recipe x has no expected figure"):
            require_expected(about, "x")
        with pytest.raises(UsageError, match=r"recipe x does not say how it runs in seconds"):
            smoke_config(load_recipe("digits"), about, "x")
