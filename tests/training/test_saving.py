"""What the loop keeps: saves that fail or cost too much, the best states, and that threads and files stay as many."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_jax.errors import RunError
from resnet_jax.runtime.events import EventLog, read_events
from resnet_jax.training import checkpoint_writer, loop, saving
from resnet_jax.training.cadence import Cadence
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.interrupt import StopRequest
from resnet_jax.training.loop import Interrupted
from resnet_jax.training.manifest import Score
from resnet_jax.training.plan import Plan, Saving
from resnet_jax.training.retention import Keep
from resnet_jax.training.save_budget import SaveBudget
from tests.training import test_checkpoint as some
from tests.training.test_checkpoint_damage import Said
from tests.training.test_loop import accuracies, fake_step, new_state, run


def stopping_at(step: int) -> dict[str, Any]:
    """Return what lets a run be asked to stop in the course of a step."""
    stop, advance = StopRequest(), fake_step()

    def stopping(state, batch):
        state, metrics = advance(state, batch)
        if int(state.step) == step:
            stop.signal = signal.SIGTERM
        return state, metrics

    return {"stop": stop, "step": stopping}


EVERY_2 = Saving(Cadence(period=2))


class Disk:
    """Lets saves of some steps fail, as a full disk does."""

    def __init__(self, *steps: int, error: int = errno.ENOSPC) -> None:
        self.full_at, self._error, self._digest = steps, error, checkpoint_writer.digest_files

    def __call__(self, folder: Path):
        if int(folder.name.split(".")[0]) in self.full_at:
            raise OSError(self._error, os.strerror(self._error), str(folder))
        return self._digest(folder)


def opened(folder: Path, *, keep: Keep | None = None):
    """Return checkpoints, what they say, and what they log."""
    said, events = Said(), folder.with_name("events.jsonl")
    return Checkpoints(folder, warn=said, events=EventLog(events), keep=keep), said, lambda: read_events(events)


def test_a_full_disk_is_said_once_and_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_writer, "digest_files", Disk(4, 6))
    checkpoints, said, events = opened(tmp_path / "checkpoints")
    with checkpoints:
        state, progress, _ = run(plan=Plan(10, 10, saving=EVERY_2), checkpoints=checkpoints)
        assert checkpoints.steps("last") == [8, 10]
    assert (int(state.step), progress.finished) == (10, "steps")
    assert len(said) == 2
    assert said[0].startswith(
        f"warning: cannot write a checkpoint in {tmp_path}/checkpoints/last: No space left on dev"
    )
    assert "Training continues" in said[0]
    assert said[1] == "Checkpoints can be written again"
    failed = [row for row in events() if row["event"] == "save_failed"]
    assert [(row["kind"], row["step"], row["reason"]) for row in failed] == [
        ("last", 4, "No space left on device"), ("last", 6, "No space left on device"),
    ]  # fmt: skip
    assert not list((tmp_path / "checkpoints" / "last").glob("*.*")), "what was half-written is gone: it takes space"


@pytest.mark.parametrize("error", [errno.EROFS, errno.EDQUOT])
def test_it_stops_if_told_to_and_what_was_saved_stays(tmp_path, monkeypatch, error):
    monkeypatch.setattr(checkpoint_writer, "digest_files", Disk(4, error=error))
    plan = Plan(10, 10, saving=Saving(Cadence(period=2), on_failure="stop"))
    checkpoints, said, _ = opened(tmp_path)
    with checkpoints, pytest.raises(RunError, match=rf"{os.strerror(error)}\. Earlier checkpoints are kept"):
        run(plan=plan, checkpoints=checkpoints)
    with checkpoints:
        assert checkpoints.steps("last") == [2]
    assert said == []


@pytest.mark.parametrize("how", ["finished", "interrupted"])
def test_the_last_state_has_to_be_written(tmp_path, monkeypatch, how):
    at = 10 if how == "finished" else 5
    monkeypatch.setattr(checkpoint_writer, "digest_files", Disk(at))
    checkpoints, _, _ = opened(tmp_path)
    with checkpoints, pytest.raises(RunError, match="cannot write a checkpoint"):
        run(
            plan=Plan(10, 10, saving=EVERY_2), checkpoints=checkpoints,
            **({} if how == "finished" else stopping_at(at)),
        )  # fmt: skip
    with checkpoints:
        assert checkpoints.steps("last")[-1] == (8 if how == "finished" else 4)


def test_a_failure_long_before_does_not_fail_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_writer, "digest_files", Disk(8))
    checkpoints, _, _ = opened(tmp_path)
    with checkpoints:
        assert run(plan=Plan(9, 10, saving=EVERY_2), checkpoints=checkpoints)[1].finished == "steps"


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "last").write_text("a file, and no folder")
    checkpoints, said, _ = opened(tmp_path)
    with checkpoints, pytest.raises(RunError, match=r"cannot write a checkpoint in .*last: .*(exists|directory)"):
        run(plan=Plan(4, 4, saving=EVERY_2), checkpoints=checkpoints)
    assert len(said) == 1


@pytest.mark.slow
def test_saves_that_take_too_long_become_fewer_and_again_as_many(tmp_path, monkeypatch):
    """A save that seems to take a second, steps of another: one in twenty steps, after the first five; then cheap."""
    now = [0.0]
    cost = [1.0]
    real = Checkpoints.save

    def slow(self, *args, **choices):
        now[0] += cost[0]
        return real(self, *args, **choices)

    monkeypatch.setattr(Checkpoints, "save", slow)
    monkeypatch.setattr(loop, "Kept", lambda *args: saving.Kept(*args, clock=lambda: now[0]))
    advance = fake_step()

    def step(state, batch):
        now[0] += 1.0
        cost[0] = 1.0 if int(state.step) < 40 else 0.0
        return advance(state, batch)

    checkpoints, said, events = opened(tmp_path / "checkpoints", keep=Keep(last=100))
    with checkpoints:
        run(plan=Plan(80, 200, saving=EVERY_2), checkpoints=checkpoints, step=step)
        steps = checkpoints.steps("last")
    assert steps[:5] == [2, 4, 6, 8, 10]
    assert len([step for step in steps if 14 < step < 40]) <= 2
    assert steps[-5:] == [72, 74, 76, 78, 80]
    intervals = [row["steps"] for row in events() if row["event"] == "interval"]
    assert min(intervals[::2]) > 2
    assert set(intervals[1::2]) == {2}
    assert len(intervals) % 2 == 0
    assert [text for text in said if "train.save_share" in text] == said
    assert len(said) == 1


def test_a_best_state_that_cannot_be_afforded_waits_for_the_next_save(tmp_path, monkeypatch):
    """It is a copy: the state itself is donated to the next step."""
    monkeypatch.setattr(SaveBudget, "allows", lambda self, seconds=0.0: False)
    plan = Plan(20, 4, saving=Saving(Cadence(period=7)))
    checkpoints, _, events = opened(tmp_path / "checkpoints")
    with checkpoints:
        run(plan=plan, evaluate=accuracies(50, 70, 60, 40, 30), checkpoints=checkpoints)
        best, _ = checkpoints.restore("best", new_state())
    np.testing.assert_array_equal(best.params["w"], 2.0 * sum(range(1, 9)))
    assert [(row["kind"], row["step"]) for row in events() if row["event"] == "save"] == [("best", 8), ("last", 20)]


def test_best_k_by_the_headline_and_nan_evicts_nothing(tmp_path):
    plan = Plan(24, 4, saving=Saving(keep_best=2))
    checkpoints, _, _ = opened(tmp_path, keep=Keep(last=1, best=2))
    with checkpoints:
        run(plan=plan, evaluate=accuracies(50, float("nan"), 70, 60, 40, float("nan")), checkpoints=checkpoints)
        assert checkpoints.steps("best") == [12, 16]
        assert [entry.score for entry in checkpoints.scores()] == [Score("accuracy", 0.7), Score("accuracy", 0.6)]
        assert checkpoints.restore("best", new_state())[0].step == 12


def test_without_a_number_no_state_is_the_best(tmp_path):
    checkpoints, _, _ = opened(tmp_path)
    with checkpoints:
        run(evaluate=accuracies(*[float("nan")] * 3), checkpoints=checkpoints)
        assert checkpoints.steps("best") == []
        checkpoints.save("best", some.new_state(1), some.NOTE, score=Score("accuracy", float("nan")))
        assert checkpoints.steps("best") == []


def test_last_and_best_of_one_step_are_copies_that_do_not_share_their_bytes(tmp_path):
    checkpoints, _, events = opened(tmp_path / "checkpoints")
    with checkpoints:
        run(plan=Plan(4, 4), evaluate=accuracies(50), checkpoints=checkpoints)
    files = [sorted((tmp_path / "checkpoints" / kind / "4" / "state").rglob("d/*")) for kind in ("last", "best")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert all(a.stat().st_ino != b.stat().st_ino for a, b in zip(*files, strict=True))
    assert [(row["kind"], row["step"]) for row in events() if row["event"] == "save"] == [("best", 4), ("last", 4)]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors as Linux lists them")
@pytest.mark.slow
@pytest.mark.parametrize("saves", [8, 400])
def test_threads_and_open_files_stay_as_many(tmp_path, saves):
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 6):
            checkpoints.save("last", some.new_state(step), some.NOTE)
        checkpoints.flush()
        before = open_files(), threading.active_count()
        for step in range(6, 6 + saves):
            checkpoints.save("last", some.new_state(step), some.NOTE)
        checkpoints.flush()
        after = open_files(), threading.active_count()
        assert checkpoints.steps("last") == [4 + saves, 5 + saves]
    assert after[0] - before[0] < 6
    assert after[1] - before[1] < 4


def test_an_interrupted_run_saves_no_step_twice(tmp_path):
    checkpoints, _, events = opened(tmp_path / "checkpoints")
    with checkpoints, contextlib.suppress(Interrupted):
        run(plan=Plan(10, 10, saving=EVERY_2), checkpoints=checkpoints, **stopping_at(4))
    steps = [row["step"] for row in events() if row["event"] == "save"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 4


LIMITED = """
import resource, sys
from pathlib import Path

import jax, jax.numpy as jnp

from resnet_jax.errors import RunError
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.state import TrainState

def state_of(step):
    noise = jax.random.normal(jax.random.key(step), (500_000,))
    return TrainState(jnp.int32(step), {"w": noise}, {}, {}, jax.random.key(0))

checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.save("last", state_of(1), {"a": 1})
checkpoints.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for step in (2, 3):
    try:
        checkpoints.save("last", state_of(step), {"a": 1})
        checkpoints.flush()
    except RunError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
checkpoints.save("last", state_of(4), {"a": 1})
checkpoints.close()
print(checkpoints.steps("last"))
"""


@pytest.mark.slow
def test_a_limit_of_file_sizes_for_real(tmp_path):
    """Of the system, in Orbax's own threads: one sentence, nothing half-written, and the next save is made."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], cwd=root, text=True, capture_output=True, check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}, timeout=120,
    )  # fmt: skip
    *said, steps = done.stdout.splitlines()
    assert steps == "[1, 4]"
    assert len(said) == 2
    assert all("last: File too large. Earlier checkpoints are kept" in line for line in said)
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == ["1", "4"]
