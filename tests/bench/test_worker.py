"""Processes that answer: what comes back, and how each way to fail is told."""

from __future__ import annotations

import sys

import pytest

from resnet_jax.bench.worker import Worker, WorkerError

#: A side that needs no library. It prints where answers go, as libraries do.
SIDE = """
import os, sys, time
class Side:
    images = 3
    def __init__(self, spec):
        self.spec, self.steps, self.waits = spec, 0, 0
        self.facts = {"params": 7}
    def dispatch(self):
        print("noise")
        self.steps += 1
        time.sleep(self.spec.get("sleep", 0.0))
    def wait(self):
        self.waits += 1
    def counts(self):
        return {"steps": self.steps, "waits": self.waits}
    def spin(self, seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return {}
    def leave(self):
        print("no more", file=sys.stderr, flush=True)
        os._exit(3)
def prepare(spec):
    if "refuse" in spec:
        raise ValueError(spec["refuse"] + "\\nand more")
    return Side(spec)
"""


@pytest.fixture
def side(tmp_path):
    """Start the side above; it ends with the test."""
    path, workers = tmp_path / "a_side.py", []
    path.write_text(SIDE)

    def start(**spec):
        workers.append(Worker(sys.executable, path, spec))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()
        assert worker._process.poll() is not None


def test_a_round_lasts_about_as_long_as_it_should_and_counts_images(side):
    worker = side(sleep=0.02)
    facts = worker.start()
    assert facts["params"] == 7
    assert facts["first_seconds"] >= 0.02
    before = worker.call("counts")
    answer = worker.call("round", seconds=0.2)
    after = worker.call("counts")
    steps = after["steps"] - before["steps"]
    assert 2 <= steps <= 11, "one step that is not timed, and at most 10 of 0.02 s"
    assert answer["images"] == 3 * (steps - 1)
    assert answer["seconds"] >= 0.02 * (steps - 1)
    assert after["waits"] - before["waits"] == 2, "all steps of a round are sent before it is waited for"


def test_what_is_computed_between_the_rounds_is_told(side):
    worker = side()
    worker.start()
    assert worker.call("counts")["idle_cpu_seconds"] < 0.1
    assert worker.call("spin", seconds=0.3)["idle_cpu_seconds"] < 0.1, "that is not idle"


def test_a_side_that_cannot_be_prepared_says_why(side):
    with pytest.raises(WorkerError, match=r"^ValueError: no such thing$"):
        side(refuse="no such thing").start()


def test_a_side_that_ends_says_its_last_words(side):
    worker = side()
    worker.start()
    with pytest.raises(WorkerError, match="ended with status 3: no more"):
        worker.call("leave")
    with pytest.raises(WorkerError, match="ended with status 3"):
        worker.call("round", seconds=0.1)


def test_a_side_that_takes_too_long_is_given_up(side):
    with pytest.raises(WorkerError, match=r"took more than 0\.2 s to compile and warm up"):
        side(sleep=60.0).start(timeout=0.2)


def test_an_interpreter_that_cannot_be_run(tmp_path):
    with pytest.raises(WorkerError, match=r"cannot run .*nothing: No such file"):
        Worker(tmp_path / "nothing", tmp_path / "side.py", {})
