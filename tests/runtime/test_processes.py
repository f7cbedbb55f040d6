"""What processes agree on: the exchange is faked, and processes run one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_jax.errors import RunError
from resnet_jax.runtime import processes
from resnet_jax.runtime.processes import Agreement


class Clocks:
    """Processes in lockstep, each with a clock of its own; what they exchange is the greatest of all."""

    def __init__(self, seconds: list[float]) -> None:
        self._seconds, self._now, self.exchanges = seconds, [0.0] * len(seconds), 0
        self._offers: list[list[float]] = []
        self.agreements = [
            Agreement(alone=False, exchange=self._offer, clock=lambda rank=rank: self._now[rank])
            for rank in range(len(seconds))
        ]

    def _offer(self, values):
        self._offers.append(list(values))
        return values

    def call(self, **wishes: list[float]) -> list[dict[str, float]]:
        """Make a call in all processes; return what each of them hears."""
        due = {agreement.due for agreement in self.agreements}
        assert len(due) == 1  # all of them exchange, or none
        for rank, seconds in enumerate(self._seconds):
            self._now[rank] += seconds
        if not due.pop():
            return [
                agreement.after_call(**{name: values[rank] for name, values in wishes.items()})
                for rank, agreement in enumerate(self.agreements)
            ]
        self.exchanges += 1
        for rank, agreement in enumerate(self.agreements):  # the first pass only collects
            agreement._exchange = self._offer
            saved = dict(vars(agreement))
            agreement.after_call(**{name: values[rank] for name, values in wishes.items()})
            vars(agreement).update(saved, _wishes=dict(saved["_wishes"]))
        greatest = np.max(self._offers, axis=0)
        self._offers.clear()
        heard = []
        for rank, agreement in enumerate(self.agreements):
            agreement._exchange = lambda _: greatest
            heard.append(agreement.after_call(**{name: values[rank] for name, values in wishes.items()}))
        return heard


def test_all_hear_of_a_wish_at_the_same_call_about_a_second_later():
    clocks = Clocks([0.01, 0.05, 0.02])
    for _ in range(50):
        clocks.call(stop=[0, 0, 0], save=[0, 0, 0])
    heard = [  # one signal, in one process, in one call
        clocks.call(stop=[0, 15 if number == 7 else 0, 0], save=[0, 0, 1 if number == 3 else 0]) for number in range(60)
    ]
    calls = [number for number, each in enumerate(heard) if any(one["stop"] for one in each)]
    assert len(calls) == 1  # once, and in all of them
    assert heard[calls[0]] == [{"stop": 15.0, "save": 1.0}] * 3
    assert 7 <= calls[0] <= 7 + 1.0 / 0.05
    assert clocks.exchanges <= 2 + 110 * 0.05  # not at every call


def test_slow_calls_are_exchanged_each_and_fast_ones_rarely():
    slow, fast = Clocks([3.0, 1.0]), Clocks([1e-9, 1e-9])
    for _ in range(10):
        assert slow.call(over=[0, 1]) == [{"over": 1.0}] * 2
        fast.call(over=[0, 0])
    assert (slow.exchanges, fast.exchanges) == (10, 1)


def test_one_process_has_its_wish_at_once():
    agreement = Agreement()
    assert agreement.due
    assert agreement.after_call(stop=15.0) == {"stop": 15.0}
    assert processes.from_main({"a": [1]}) == {"a": [1]}
    assert processes.gathered("x") == ["x"]
    processes.require_same(1, "the step")
    assert processes.on_main(lambda: 5) == 5


@pytest.fixture
def second_of_two(monkeypatch):
    """This process is the second of two; what the main one says is given."""
    said: list = []
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "index", lambda: 1)
    monkeypatch.setattr(processes, "barrier", lambda name: None)
    monkeypatch.setattr(processes, "from_main", lambda value: said[0])
    return said


def test_what_the_main_process_fails_with_is_raised_in_all(second_of_two):
    second_of_two.append(["RunError", "another process is training in run"])

    def work() -> None:
        raise AssertionError("only the main process works")

    with pytest.raises(RunError, match="another process is training in run") as raised:
        processes.on_main(work)
    assert processes.is_agreed(raised.value)
    second_of_two[0] = None
    assert processes.on_main(work) is None


def test_processes_that_differ_are_refused_in_all(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "gathered", lambda value: [7, 5])
    with pytest.raises(RunError, match="the step is 7 in process 0 and 5 in process 1 of 2"):
        processes.require_same(7, "the step")
