"""Durations: the three written forms, conversion to steps, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from resnet_jax.errors import UsageError
from resnet_jax.training.duration import Duration, parse_duration


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("5 epochs", 5, "epochs"),
        ("1 epoch", 1, "epochs"),
        ("2.5ep", 2.5, "epochs"),
        (".5 EPOCHS", 0.5, "epochs"),
        ("32000 steps", 32000, "steps"),
        ("1 step", 1, "steps"),
        ("64e3st", 64000, "steps"),
        (" 50 % ", 0.5, "fraction"),
        ("12.5%", 0.125, "fraction"),
    ],
)
def test_written_forms(text: str, amount: float, unit: str) -> None:
    assert parse_duration(text) == Duration(amount, unit)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "text", ["5", "", "epochs", "five epochs", "5 days", "5 epochs 3 steps", "nan%", "inf steps", "5%%"]
)
def test_junk_is_refused_with_the_right_forms(text: str) -> None:
    with pytest.raises(UsageError, match=r"'5 epochs', '32000 steps' or '50%'") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-5 epochs", "not negative, got -5 epochs"),
        ("-1%", "not negative"),
        ("1e999 epochs", "finite"),
        ("2.5 steps", "steps are whole, got 2.5"),
        ("150%", "at most 100%, got 150%"),
    ],
)
def test_impossible_amounts_are_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_duration(text)


def test_impossible_units_and_amounts_are_refused_without_text_too() -> None:
    with pytest.raises(UsageError, match="unknown unit of duration 'days'"):
        Duration(1, "days")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="finite"):
        Duration(float("nan"), "epochs")


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("0 epochs", 0),
        ("3 epochs", 3 * 391),
        ("0.5 epochs", 196),  # 195.5: a half goes up
        ("7 steps", 7),
        ("100000 steps", 100000),  # beyond the run, unchanged
        ("50%", 32000),
        ("100%", 64000),
        ("0.001%", 1),  # 0.64 is nearer to 1
    ],
)
def test_steps(text: str, steps: int) -> None:
    assert parse_duration(text).steps(steps_per_epoch=391, total_steps=64000) == steps


def test_a_fraction_cannot_give_the_length_of_the_run() -> None:
    assert parse_duration("90 epochs").steps(steps_per_epoch=10) == 900
    with pytest.raises(UsageError, match="50% of the run cannot say how long the run is"):
        parse_duration("50%").steps(steps_per_epoch=10)


@given(percent=st.integers(0, 100), hundreds=st.integers(1, 10**6))
def test_whole_shares_are_exact(percent: int, hundreds: int) -> None:
    """A share that comes out whole must not lose a step to binary fractions (0.29 * 100 = 28.999...)."""
    assert parse_duration(f"{percent}%").steps(1, 100 * hundreds) == percent * hundreds
