"""A wave of lanes: halving and refilling, and that no trial is lost or doubled wherever the process ends.

The lanes are no network: a lane's only weight becomes its learning rate times its updates, so that a state that came
into another lane, or was restored with other updates, would show in what is measured.
"""

from __future__ import annotations

import dataclasses
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.search import wave as wave_module
from resnet_jax.search.allowance import Allowance
from resnet_jax.search.halving import rungs
from resnet_jax.search.space import Dimension, Space
from resnet_jax.search.study import Study
from resnet_jax.search.wave import Job, Wave
from resnet_jax.training.interrupt import Interrupted, StopRequest
from resnet_jax.training.state import TrainState
from tests.search.conftest import tiny_config

RATE = "optim.learning_rate"
SPACE = Space((Dimension(RATE, "log", (0.01, 100.0)),), "each")
LENGTH = 18


class Killed(BaseException):
    """The process ends here."""


class FakeLanes:
    """Lanes whose weight is the sum of their rates; it dies before a given call."""

    names = (RATE,)

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at, self.calls, self.made, self.begun = dies_at, 0, 0, []

    def new_states(self, seeds):
        count = len(seeds)
        self.begun += list(seeds)
        zeros = jnp.zeros(count, jnp.float32)
        return TrainState(jnp.zeros(count, jnp.int32), {"w": zeros}, {}, {}, jax.random.split(jax.random.key(0), count))

    def restart(self, states, lane, seed):
        self.begun.append(seed)
        return states.replace(step=states.step.at[lane].set(0), params={"w": states.params["w"].at[lane].set(0.0)})

    def advance(self, states, values, seeds, starts, count):
        self.calls += 1
        if self.calls == self.dies_at:
            raise Killed
        rates = np.asarray(values[RATE], np.float32)
        rejected = np.broadcast_to(rates > 50, (count, len(rates)))
        self.made += count
        np.testing.assert_array_equal(states.step, starts)
        new = states.replace(step=states.step + count, params={"w": states.params["w"] + rates * count})
        return new, {"rejected": rejected.astype(np.float32)}

    def evaluate(self, states, records):
        rates = np.asarray(states.params["w"]) / np.maximum(np.asarray(states.step), 1)
        return [SimpleNamespace(metrics={"accuracy": accuracy(rate)}, loss=1.0 - accuracy(rate)) for rate in rates]


def accuracy(rate: float) -> float:
    return float(1 / (1 + abs(np.log10(max(rate, 1e-9)) + 1)))


@pytest.fixture
def save_at_once(monkeypatch):
    monkeypatch.setattr(wave_module, "SAVE_SECONDS", 0.0)


def search(tmp_path, lanes, *, trials=12, count=3, eta=3, seconds=None, stop=None, resumed=True, said=None):
    """Run a wave as ``search`` does; return what the study has then."""
    study = Study(tmp_path / "study.db", SPACE, "max", "random", seed=2)
    try:
        allowance = Allowance(trials, seconds)
        job = Job(
            study,
            allowance,
            rungs(LENGTH, eta, 2),
            eta,
            "accuracy",
            StopRequest() if stop is None else stop,
            (lambda _: None) if said is None else said.append,
            save_share=1.0,
        )
        wave = Wave(job, lanes, tiny_config(), count, None, {}, tmp_path / "lanes")  # pyright: ignore
        if resumed:
            wave.resume()
        wave.run()
        return study.trials()
    finally:
        study.close()


def test_every_trial_ends_and_the_worse_ones_end_early(tmp_path):
    lanes, said = FakeLanes(), []
    trials = search(tmp_path, lanes, said=said)
    assert [one.number for one in trials] == list(range(12))
    states = [one.state for one in trials]
    assert "running" not in states
    assert {"complete", "stopped"} <= set(states)
    for one in trials:
        rate = one.values[RATE]
        if rate > 50:
            assert (one.state, one.reason) == ("diverged", "diverged at update 1")
        else:
            assert one.value == pytest.approx(accuracy(rate), rel=1e-5)
            assert one.updates == (LENGTH if one.state == "complete" else max(2, one.updates))
    best = max((one for one in trials if one.value is not None), key=lambda one: one.value or 0)
    assert best.state == "complete"
    assert lanes.made < 12 * LENGTH / 3 * 0.8  # a third of the lanes' updates are those of the lockstep without halving
    assert len([line for line in said if line.startswith("trial ")]) == 12
    assert sorted(lanes.begun) == [2 + number for number in range(12)]  # each seed once


def test_without_halving_all_have_the_whole_length(tmp_path):
    trials = search(tmp_path, FakeLanes(), trials=5, eta=1)
    assert {one.state for one in trials} <= {"complete", "diverged"}
    assert all(one.updates == LENGTH for one in trials if one.state == "complete")


@pytest.mark.parametrize("dies_at", [3, *(pytest.param(call, marks=pytest.mark.slow) for call in (1, 2, 5))])
@pytest.mark.slow
def test_killed_anywhere_no_trial_is_lost_or_doubled(tmp_path, dies_at, save_at_once):
    """The same trials with the same values, seeds and measurements as without; what was told stays."""
    (tmp_path / "whole").mkdir()
    whole = search(tmp_path / "whole", FakeLanes(), trials=7)
    with pytest.raises(Killed):
        search(tmp_path, FakeLanes(dies_at), trials=7)
    study = Study(tmp_path / "study.db", SPACE, "max", "random", seed=2)
    told = [one for one in study.trials() if one.state != "running"]
    study.close()
    with pytest.raises(Killed):
        search(tmp_path, FakeLanes(1), trials=7)
    trials = search(tmp_path, FakeLanes(), trials=7)
    assert [(one.number, one.values, one.seed) for one in trials] == [
        (one.number, one.values, one.seed) for one in whole
    ]
    assert all(one.state != "running" for one in trials)
    assert [trials[one.number] for one in told] == told
    for one in trials:
        if one.state != "diverged":
            assert one.value == pytest.approx(accuracy(one.values[RATE]), rel=1e-5)


def test_lanes_go_on_from_where_they_were_saved(tmp_path, save_at_once):
    """Not from the start: of the updates at most those since the last save are made again."""
    first = FakeLanes(dies_at=3)
    with pytest.raises(Killed):
        search(tmp_path, first, trials=3, eta=1)
    said, second = [], FakeLanes()
    search(tmp_path, second, trials=3, eta=1, said=said)
    assert first.made > 0
    assert second.made == LENGTH - first.made
    assert any(line.startswith("resuming trials") for line in said)


def test_a_signal_saves_and_says_so_and_the_next_call_goes_on(tmp_path):
    stop = StopRequest()
    lanes = FakeLanes()
    advance = lanes.advance

    def stopped(*given):
        stop.signal = signal.SIGTERM
        return advance(*given)

    lanes.advance = stopped
    with pytest.raises(Interrupted):
        search(tmp_path, lanes, trials=3, eta=1, stop=stop)
    second = FakeLanes()
    trials = search(tmp_path, second, trials=3, eta=1)
    assert lanes.made + second.made == LENGTH
    assert len(trials) == 3


@pytest.mark.slow
def test_another_number_of_lanes_goes_on_with_the_trials_from_the_start(tmp_path, save_at_once):
    with pytest.raises(Killed):
        search(tmp_path, FakeLanes(4))
    # the directory of a search names the lanes' folder by their number
    (tmp_path / "lanes").rename(tmp_path / "of-three-lanes")
    trials = search(tmp_path, FakeLanes(), count=5)
    assert [one.number for one in trials] == list(range(12))
    assert all(one.state != "running" for one in trials)


def test_more_trials_can_be_asked_for_later(tmp_path):
    few = search(tmp_path, FakeLanes(), trials=4)
    more = search(tmp_path, FakeLanes(), trials=7)
    assert more[:4] == few
    assert [one.number for one in more] == list(range(7))


def test_no_trial_is_begun_that_would_not_end_in_time(tmp_path):
    now = [0.0]
    allowance = Allowance(None, 100.0, needed=60.0, clock=lambda: now[0])
    assert allowance.may_begin(1_000)
    now[0] = 50.0
    assert not allowance.may_begin(1_000)
    assert not dataclasses.replace(allowance, trials=5).may_begin(5)
