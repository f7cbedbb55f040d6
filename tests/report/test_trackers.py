"""Trackers by name: what a fake package is told, and what is said where it is not installed."""

from __future__ import annotations

import math
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest

from resnet_jax.errors import UsageError
from resnet_jax.report.trackers import OBSERVERS, make_observers, register_observer
from resnet_jax.report.views import View
from resnet_jax.training.cadence import Cadence
from resnet_jax.training.observers import Observer, RunFacts


def facts(run_dir, start_step=0):
    return RunFacts("digits", run_dir, {"seed": 3}, start_step, 100, 10, 8, Cadence(period=2))


class FakeRun:
    def __init__(self):
        self.logged, self.finished, self.summary = [], False, {}

    def log(self, scalars, step=None):
        self.logged.append((step, scalars))

    def finish(self):
        self.finished = True


@pytest.fixture
def tracker(monkeypatch):
    """A package of the tracker's name that remembers what it is told."""

    def install(name):
        inits, run = [], FakeRun()
        module = ModuleType(name)
        module.init = lambda **options: inits.append(options) or run  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, name, module)
        return SimpleNamespace(inits=inits, run=run)

    return install


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_is_told_of_logged_steps_epochs_and_the_end(tracker, tmp_path, name):
    fake = tracker(name)
    (observer,) = make_observers([name])
    observer.on_start(facts(tmp_path))
    for step in (1, 2):
        observer.on_step({"step": step, "epoch": 0.1, "loss": 2.0, "grad_norm": math.inf})
    observer.on_validation({"step": 5, "epoch": 0.5, "val_loss": 0.25})
    observer.on_epoch({"step": 10, "epoch": 1.0, "loss": 1.0, "val_loss": 0.5})
    observer.on_end({"steps": 10, "test_accuracy": 0.9, "finished": "steps"})
    observer.close()
    assert fake.inits[0]["name"] == "digits"
    assert fake.inits[0]["config"] == {"seed": 3}
    assert fake.run.logged[:3] == [
        (2, {"step/loss": 2.0}),
        (5, {"epoch/val_loss": 0.25}),
        (10, {"epoch/loss": 1.0, "epoch/val_loss": 0.5}),
    ]
    told = fake.run.summary["test_accuracy"] if name == "wandb" else fake.run.logged[3][1]["summary/test_accuracy"]
    assert told == 0.9
    assert fake.run.finished


def test_a_resumed_run_goes_on_under_its_own_id(tracker, tmp_path):
    fake = tracker("wandb")
    for folder, start in ((tmp_path, 0), (tmp_path, 7), (tmp_path / "other", 0)):
        folder.mkdir(exist_ok=True)
        (observer,) = make_observers(["wandb"])
        observer.on_start(facts(folder, start))
    first, again, other = (options["id"] for options in fake.inits)
    assert first == again != other
    assert {options["resume"] for options in fake.inits} == {"allow"}


class Hanging(FakeRun):
    def __init__(self):
        super().__init__()
        self.released = threading.Event()

    def log(self, scalars, step=None):
        self.released.wait(20)


def test_a_tracker_that_hangs_stops_no_training_and_is_said_within_a_bounded_time(monkeypatch, tmp_path):
    run, lines = Hanging(), []
    module = ModuleType("wandb")
    module.init = lambda **options: run  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr("resnet_jax.report.trackers._Tracked.finish_seconds", 0.1)
    monkeypatch.setattr("resnet_jax.report.own_thread.MOST_CALLS", 50)
    view = View("wandb", lambda: make_observers(["wandb"])[0], lines.append)
    began = time.monotonic()
    view.on_start(facts(tmp_path))
    for step in range(1, 300):
        view.on_step({"step": step, "epoch": 0.1, "loss": 2.0})
    view.on_end({"steps": 10})
    view.close()
    assert time.monotonic() - began < 5
    assert lines == [
        "warning: wandb goes no further: TimeoutError: wandb did not finish within 0.1 seconds. Training continues"
    ]
    run.released.set()


def test_a_tracker_that_hangs_or_fails_as_it_starts_is_left_out(monkeypatch, tmp_path):
    lines, released = [], threading.Event()
    module = ModuleType("wandb")
    module.init = lambda **options: released.wait(20)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr("resnet_jax.report.trackers._Tracked.start_seconds", 0.1)
    view = View("wandb", lambda: make_observers(["wandb"])[0], lines.append)
    view.on_start(facts(tmp_path))
    view.on_step({"step": 2, "epoch": 0.1, "loss": 2.0})
    view.close()
    released.set()

    def refused(**options):
        raise ConnectionError("no route to host")

    module.init = refused  # pyright: ignore[reportAttributeAccessIssue]
    view = View("wandb", lambda: make_observers(["wandb"])[0], lines.append)
    view.on_start(facts(tmp_path))
    view.close()
    assert [line.split(": ", 2)[2] for line in lines] == [
        "TimeoutError: wandb did not start within 0.1 seconds. Training continues",
        "ConnectionError: no route to host. Training continues",
    ]


def test_an_id_that_was_cut_is_made_again(tracker, tmp_path):
    fake = tracker("wandb")
    (tmp_path / "wandb-id.txt").write_bytes(b"\0\0")
    make_observers(["wandb"])[0].on_start(facts(tmp_path))
    assert fake.inits[0]["id"] == (tmp_path / "wandb-id.txt").read_text()
    assert len(fake.inits[0]["id"]) == 16


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_package_that_is_not_installed_is_named_with_what_installs_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"train.observers {name} needs .* pip install 'resnet-flax\[{name}\]'"):
        make_observers([name])


def test_anybody_registers_an_observer_and_an_unknown_one_names_the_nearest():
    @register_observer("mine")
    class Mine(Observer):
        pass

    try:
        assert isinstance(make_observers(["mine"])[0], Mine)
    finally:
        del OBSERVERS["mine"]
    with pytest.raises(UsageError, match="unknown observer 'tensorbord'; did you mean 'tensorboard'"):
        make_observers(["tensorbord"])
