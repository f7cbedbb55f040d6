"""A run directory that goes while it is trained in: one sentence, in a second, and nothing of it is made again."""

from __future__ import annotations

import shutil

import pytest

from resnet_jax.errors import RunError
from resnet_jax.runs.fit import fit
from resnet_jax.runs.position import Position, read_position
from resnet_jax.runs.presence import EVERY, Presence
from resnet_jax.runtime.events import read_events
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.observers import Observer
from tests.runs.test_resume import classes, config_of, tiny_network  # noqa: F401
from tests.training.test_loop import new_state


def test_it_looks_once_a_second_and_knows_another_directory_of_the_same_name(tmp_path):
    now = [0.0]
    run = tmp_path / "run"
    run.mkdir()
    presence = Presence(run, lambda: now[0])
    run.rename(tmp_path / "moved")
    presence.on_step({"step": 1})  # not yet time
    now[0] = EVERY
    with pytest.raises(RunError, match=r"run was removed or moved while training; nothing is there now"):
        presence.on_step({"step": 2})
    run.mkdir()
    with pytest.raises(RunError, match="another directory is there now, and nothing was written to it"):
        presence.require()
    run.rmdir()
    (tmp_path / "moved").rename(run)
    presence.require()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_checkpoint_does_not_make_the_directory_again(replaced, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save("last", new_state(1), {"made": "here"})
        checkpoints.steps("last")
        run.rename(tmp_path / "moved")
        if replaced:
            run.mkdir()
        with pytest.raises(RunError, match="the directory was removed or moved"):
            checkpoints.save("last", new_state(2), {"made": "here"})
    assert list(run.iterdir()) == [] if replaced else not run.exists()
    assert (tmp_path / "moved" / "checkpoints" / "last" / "1").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_training_ends_with_one_sentence_and_goes_on_where_it_was_moved_to(how, tmp_path, monkeypatch):
    monkeypatch.setattr("resnet_jax.runs.presence.EVERY", 0.0)
    run = tmp_path / "run"

    class Gone(Observer):
        def on_step(self, row):
            if row["step"] == 5:
                run.rename(tmp_path / "moved")
                if how == "removed":
                    shutil.rmtree(tmp_path / "moved", ignore_errors=True)

    with pytest.raises(RunError, match="was removed or moved while training; nothing is there now"):
        fit(config_of(), run, data=classes(), observers=[Gone()])
    assert not run.exists()
    if how == "moved":
        found = fit(config_of(), tmp_path / "moved", data=classes())
        assert found.summary.steps == 12
        assert [row["event"] for row in read_events(tmp_path / "moved" / "events.jsonl")].count("restore") == 1


def test_a_position_is_whole_or_not_known(tmp_path):
    path = tmp_path / ".position"
    assert read_position(path) is None
    position = Position(path, 3)
    assert read_position(path) == 3
    position.on_step({"step": 70_000})
    assert read_position(path) == 70_000
    position.close()
    position.on_step({"step": 70_001})
    written = path.read_bytes()
    for broken in (written[:15], written[:8] + bytes(8), written + b"x"):
        path.write_bytes(broken)
        assert read_position(path) is None
    Position(tmp_path / "nowhere" / ".position", 1).on_step({"step": 2})
