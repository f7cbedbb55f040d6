"""The range test: suggestions on curves that are known, the end of a test, its files, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from resnet_jax.errors import UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.config import RunConfig, TrainConfig
from resnet_jax.runs.lr_range import RangeTest, lr_range, range_config, sentences, smooth, suggest
from resnet_jax.training.optimizers import OptimConfig

RATES = np.geomspace(1e-5, 10, 121)
TINY = RunConfig(
    model=ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,)),
    train=TrainConfig(batch_size=32),
    optim=OptimConfig("sgd", 0.05, weight_decay=1e-4),
)


def _curve(noise: float = 0.0) -> np.ndarray:
    """A loss of 2 that falls by 1.5 around a rate of 1e-2 and rises steeply from 1 on, (updates,)."""
    x = np.log10(RATES)
    return 2 - 1.5 / (1 + np.exp(-4 * (x + 2))) + np.exp(6 * x) + noise * np.random.default_rng(0).normal(size=len(x))


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_known_curve_gives_its_steepest_descent_and_its_minimum(noise: float) -> None:
    steepest, minimum = suggest(RATES, smooth(_curve(noise), 0.02 * len(RATES)))
    assert steepest is not None
    assert minimum is not None
    assert 5e-3 < steepest < 2e-2
    assert 0.1 < minimum < 0.7
    assert RATES[np.argmin(_curve())] == pytest.approx(suggest(RATES, _curve())[1])


def test_smoothing_does_not_lag_and_leaves_out_what_is_not_finite() -> None:
    line = np.linspace(0.0, 1.0, 50)
    np.testing.assert_allclose(smooth(line, 2.0)[8:-8], line[8:-8], atol=1e-5)
    cut = np.where(np.arange(50) < 40, line, np.nan)
    assert np.isnan(smooth(cut, 2.0)[40:]).all()
    assert np.isfinite(smooth(cut, 2.0)[:40]).all()


def test_a_loss_that_only_rises_has_no_suggestion_and_one_that_only_falls_says_where_to_look() -> None:
    assert suggest(RATES, np.linspace(1, 2, len(RATES))) == (None, None)
    rising = RangeTest(RATES, np.linspace(1, 2, len(RATES))[None], (0,), None, None)
    assert sentences(rising, 0.1)[0].startswith("At no rate does the loss fall")
    falling = np.linspace(2, 1, len(RATES))
    found = RangeTest(RATES, falling[None], (0,), *suggest(RATES, falling))
    assert any("a higher --to" in line for line in sentences(found, 0.1))


@pytest.mark.slow
def test_a_short_test_of_two_seeds_ends_when_the_loss_is_far_up_and_writes_both_files(tmp_path: Path) -> None:
    said = Console(record=True, width=200)
    found = lr_range(TINY, tmp_path / "new", low=1e-3, high=1e4, steps=60, seeds=(0, 3), console=said)
    assert found["steps"] < 60
    assert found["recipe_rate"] == 0.05
    with (tmp_path / "new/lr_range.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["seed"] for row in rows} == {"0", "3"}
    assert float(rows[0]["rate"]) == pytest.approx(1e-3, rel=1e-4)
    first = [float(row["rate"]) for row in rows if row["seed"] == "0"]
    np.testing.assert_allclose(np.diff(np.log(first)), np.log(1e7) / 59, rtol=1e-3)
    assert (tmp_path / "new/lr_range.png").read_bytes().startswith(b"\x89PNG")
    assert "the rate of the recipe is 0.05" in said.export_text()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["lr_range.csv", "lr_range.png"]


def test_nothing_stops_or_averages_it() -> None:
    train = dataclasses.replace(TINY.train, limit="3 steps", depth_every="1 steps")
    made = range_config(dataclasses.replace(TINY, train=train), 1e-4, 1.0, 50)
    assert (made.train.length, made.train.limit, made.train.depth_every) == ("50 steps", None, None)
    assert (made.optim.learning_rate, made.optim.schedule.start_value) == (1.0, 1e-4)
    assert made.optim.weight_decay == 1e-4


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"low": 1.0, "high": 0.1}, r"from a rate above 0 to a higher one, got from 1 to 0.1"),
        ({"low": 0.0}, "from a rate above 0"),
        ({"steps": 5}, "needs 20 updates or more, got 5"),
    ],
)
def test_rates_and_steps_that_cannot_be_are_refused(tmp_path: Path, choices: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        lr_range(TINY, tmp_path, **choices)
