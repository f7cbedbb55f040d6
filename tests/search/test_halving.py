"""Rungs and who goes on from them."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, strategies as st

from resnet_jax.search.halving import WHOLE, kept, next_rung, rungs

VALUES = st.dictionaries(st.integers(0, 60), st.floats(-5, 5), min_size=1, max_size=40)
MODES = st.sampled_from(["max", "min"])


@given(st.integers(1, 100_000), st.integers(1, 6), st.integers(0, 500))
def test_rungs_ascend_to_the_length_by_eta_and_none_is_before_the_least(length, eta, least):
    found = rungs(length, eta, least)
    updates, shares = [rung.updates for rung in found], [rung.share for rung in found]
    assert updates[-1] == length
    assert shares[-1] == WHOLE
    assert all(a < b for a, b in itertools.pairwise(updates))
    assert all(a < b for a, b in itertools.pairwise(shares))
    assert all(rung >= max(least, 1) for rung in updates[:-1])
    assert eta > 1 or len(found) == 1
    if eta > 1:  # none is missing
        assert updates[0] // eta < max(least, 1) or updates[0] == 1


def test_the_next_rung_is_the_first_after_the_updates_made():
    found = rungs(90, 3, 10)
    assert [next_rung(step, found).updates for step in (0, 9, 10, 30, 89)] == [10, 10, 30, 90, 90]
    with pytest.raises(StopIteration):
        next_rung(90, found)


@given(VALUES, st.integers(1, 5), MODES)
def test_the_best_goes_on_and_about_one_of_eta_do(measured, eta, mode):
    found = kept(measured, eta, mode)
    assert len(found) == max(len(measured) // eta, 1)
    best = (max if mode == "max" else min)(measured.values())
    assert best in [measured[number] for number in found]


@given(VALUES, st.integers(1, 5), MODES)
def test_whoever_is_better_than_one_that_goes_on_goes_on(measured, eta, mode):
    found = kept(measured, eta, mode)
    sign = 1 if mode == "max" else -1
    worst = min(sign * measured[number] for number in found)
    assert {number for number, value in measured.items() if sign * value > worst} <= found


@given(VALUES, st.integers(2, 5))
def test_the_order_in_which_lanes_are_looked_at_decides_nothing(measured, eta):
    backwards = dict(reversed(measured.items()))
    assert kept(backwards, eta, "max") == kept(measured, eta, "max")


@given(VALUES, st.integers(1, 5), MODES)
def test_what_is_not_a_number_never_goes_on_and_never_takes_the_place_of_one(measured, eta, mode):
    with_nan = {**measured, 100: math.nan}
    assert 100 not in kept(with_nan, eta, mode)
    assert kept(with_nan, eta, mode) >= kept(measured, eta, mode)
    assert kept({1: math.nan}, eta, mode) == frozenset()


def test_without_halving_all_go_on():
    assert kept({0: 0.1, 1: 0.2, 2: 0.2}, 1, "max") == {0, 1, 2}
