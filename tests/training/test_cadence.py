"""How often: the steps at which something is due, and the clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from resnet_jax.errors import UsageError
from resnet_jax.training.cadence import Cadence, Ticker
from resnet_jax.training.duration import parse_duration


@pytest.mark.parametrize(
    ("length", "due"),
    [
        ("1 epochs", [8, 16, 24]),
        ("0.5 epochs", [4, 8, 12, 16, 20, 24]),
        ("7 steps", [7, 14, 21]),
        ("25%", [6, 12, 18, 24]),
        ("0.01 epochs", list(range(1, 25))),
    ],
)
def test_it_is_due_after_whole_multiples(length, due):
    cadence = Cadence.every(length, steps_per_epoch=8, total_steps=24)
    assert [step for step in range(25) if cadence.is_due(step)] == due
    assert [step for step in range(24) if cadence.after(step) == step + 1] == [step - 1 for step in due]


@given(st.floats(1, 1e4), st.integers(0, 10**6))
def test_the_next_time_is_the_first_that_is_due(period, step):
    cadence = Cadence(period=period)
    after = cadence.after(step)
    assert after is not None
    assert step < after <= step + math.ceil(period) + 1
    assert cadence.is_due(after)
    assert not any(cadence.is_due(between) for between in range(step + 1, after))


def test_by_the_clock_it_is_due_once_the_time_has_passed():
    now = [100.0]
    ticker = Ticker(Cadence.every("10 min", steps_per_epoch=8, total_steps=24), clock=lambda: now[0])
    seen = []
    for seconds in (0, 599, 600, 601, 1199, 1200):
        now[0] = 100.0 + seconds
        seen.append(ticker.is_due(1))
    assert seen == [False, False, True, False, False, True]


@pytest.mark.parametrize(
    "fault", [{}, {"period": 1, "seconds": 1}, {"period": 0}, {"seconds": 0}, {"period": math.nan}]
)
def test_what_is_no_cadence_is_refused(fault):
    with pytest.raises(UsageError, match="a cadence is"):
        Cadence(**fault)


@pytest.mark.parametrize(("text", "seconds"), [("10 min", 600), ("1.5 h", 5400), ("90 s", 90), ("2hours", 7200)])
def test_times_on_the_clock_are_read_and_are_no_steps(text, seconds):
    duration = parse_duration(text)
    assert duration.seconds == seconds
    assert parse_duration(str(duration)) == duration
    with pytest.raises(UsageError, match="on the clock cannot be said in steps"):
        duration.steps(10, 100)


def test_a_period_that_is_no_whole_number_is_due_at_the_nearest_steps_a_half_upwards():
    cadence = Cadence(period=2.5)
    assert [step for step in range(16) if cadence.is_due(step)] == [3, 5, 8, 10, 13, 15]
    assert [cadence.after(step) for step in (0, 3, 5)] == [3, 5, 8]
