"""Early stopping: when it stops, what counts as better, and that its state survives JSON."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, strategies as st

from resnet_jax.errors import UsageError
from resnet_jax.training.early_stopping import EarlyStopping, EarlyStoppingState


def _run(rule: EarlyStopping, values: list[float]) -> EarlyStoppingState:
    state = rule.init()
    for value in values:
        state = rule.update(state, value)
    return state


def _first_stop(rule: EarlyStopping, values: list[float]) -> int | None:
    return next((n for n in range(len(values) + 1) if _run(rule, values[:n]).should_stop), None)


def test_stops_after_patience_evaluations_without_improvement() -> None:
    values = [0.1, 0.5, 0.4, 0.5, 0.3, 0.2]  # an equal value is not an improvement
    assert _first_stop(EarlyStopping(patience=3), values) == 5
    assert _run(EarlyStopping(patience=3), values[:5]) == EarlyStoppingState(5, 0.5, 1, 3, True)


def test_min_mode_is_max_mode_of_the_negated_metric() -> None:
    values = [1.0, 0.8, 0.9, 0.7, 0.75, 0.72, 0.71]
    low = _run(EarlyStopping(3, mode="min"), values)
    high = _run(EarlyStopping(3, mode="max"), [-v for v in values])
    assert low.best == 0.7
    assert (low.best_at, low.wait, low.should_stop) == (high.best_at, high.wait, high.should_stop) == (3, 3, True)


def test_min_delta_is_measured_from_the_best_value() -> None:
    """Gains of 0.0625 under a min_delta of 0.125: the third beats the best value by enough."""
    state = _run(EarlyStopping(patience=3, min_delta=0.125), [0.5, 0.5625, 0.625, 0.6875])
    assert (state.best, state.best_at, state.wait) == (0.6875, 3, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_values_that_are_not_finite_never_improve(bad: float, mode: str) -> None:
    rule = EarlyStopping(patience=2, mode=mode)  # pyright: ignore[reportArgumentType]
    assert _run(rule, [bad]) == EarlyStoppingState(evaluations=1, wait=1)
    assert _run(rule, [0.5, bad, bad]) == EarlyStoppingState(3, 0.5, 0, 2, True)


@given(st.lists(st.floats(allow_nan=True, width=32), max_size=12), st.integers(0, 12))
def test_a_resumed_run_goes_on_as_if_uninterrupted(values: list[float], cut: int) -> None:
    rule = EarlyStopping(patience=2)
    stored = json.dumps(_run(rule, values[:cut]).to_json(), allow_nan=False)
    state = EarlyStoppingState(**json.loads(stored))
    for value in values[cut:]:
        state = rule.update(state, value)
    assert state == _run(rule, values)


def test_impossible_rules_are_refused() -> None:
    with pytest.raises(UsageError, match=r"train\.early_stopping\.patience must be 1 or more, got 0"):
        EarlyStopping(patience=0)
    for delta in (-0.1, math.nan, math.inf):
        with pytest.raises(UsageError, match=r"train.early_stopping.min_delta must be 0 or more"):
            EarlyStopping(patience=1, min_delta=delta)
    with pytest.raises(UsageError, match="mode 'maks'; did you mean 'max'"):
        EarlyStopping(patience=1, mode="maks")  # pyright: ignore[reportArgumentType]
