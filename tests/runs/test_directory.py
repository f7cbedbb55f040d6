"""The small files of a run directory: whatever somebody does to them, none is half-believed."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest

from resnet_jax.errors import DamagedError, ResNetJaxError, RunError, UsageError
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.kept import NAME
from resnet_jax.runtime.events import read_events

CONFIG = RunConfig(seed=4)
CARD = DatasetInfo(("ant", "bee"), (8, 8, 1), (0.5,), (0.25,), {"train": 10, "test": 5})
START = {"init_from": "other", "step": 7, "params_digest": "ab"}
SUMMARY = {"test_accuracy": 0.5, "steps": 10, "finished": "steps"}

FILES = ("config.yaml", "data.json", "start.json", "summary.json")
#: What makes a file unreadable.
DAMAGES = {
    "cut": lambda content: (
        content[: len(content) // 2 - 3] if content.startswith(b"{") else content[: content.rindex(b"seed:")]
    ),
    "empty": lambda content: b"",
    "NUL bytes": lambda content: bytes(len(content)),
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "a list": lambda content: b"[1, 2]\n",
    "nested": lambda content: b"[" * (10**5 if content.startswith(b"{") else 200),
    "a number": lambda content: b"5\n",
}


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    """A directory as a run with a checkpoint leaves it."""
    run = RunDirectory.open(tmp_path / "run", CONFIG)
    run.write_data(CARD)
    run.write_start(START)
    run.write_summary(SUMMARY)
    (run.checkpoints / "last" / "5").mkdir(parents=True)
    return run


def content(run: RunDirectory):
    """Return what the files say."""
    return run.read_config(), run.read_data(), run.read_start(), run.read_summary()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_read_is_named_and_read_from_the_second_copy_and_written_again(run, caplog, name, damage):
    path = run.path / name
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    damaged, said = path.read_bytes(), []
    readable = name == "config.yaml" and damage == "cut"  # whole lines are missing: another configuration
    if readable:
        with pytest.raises(DamagedError, match=r"config.yaml is not what this run wrote:\n  seed: 4 -> 0"):
            content(run)
        return
    assert content(run) == (CONFIG, CARD, START, SUMMARY)
    assert f"{name} is damaged (" in caplog.text
    run.mend(said.append)
    assert path.read_bytes() == whole
    assert (run.path / f"{name}.damaged-1").read_bytes() == damaged
    assert len(said) == 1
    assert f"{name} is damaged (" in said[0]
    (event,) = read_events(run.events)
    assert (event["event"], event["what"], event["set_aside"]) == ("damaged", name, f"{name}.damaged-1")
    run.mend(said.append)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("config.yaml", "seed: 4", "seed: 5", "seed: 4 -> 5"),
        ("data.json", "0.25", "0.75", r"std: \(0.25,\) -> \(0.75,\)"),
        ("data.json", '"bee"', '"wasp"', r"class_names: \('ant', 'bee'\) -> \('ant', 'wasp'\)"),
        ("start.json", '"ab"', '"cd"', "params_digest: ab -> cd"),
        ("summary.json", "0.5", "0.99", "test_accuracy: 0.5 -> 0.99"),
    ],
)
def test_what_was_changed_is_refused_with_what_differs_until_it_is_meant(run, name, old, new, says):
    path = run.path / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    run.mend(pytest.fail)
    with pytest.raises(DamagedError, match=rf"{re.escape(name)} is not what this run wrote:\n  {says}\nRestore it"):
        content(run)
    (run.path / NAME).unlink()
    content(run)
    path.write_text(text)
    assert content(run) == (CONFIG, CARD, START, SUMMARY)


def test_an_edit_that_changes_nothing_is_no_damage(run):
    run.config.write_text("# mine\n" + run.config.read_text().replace("log_every: ", "log_every:   "))
    assert run.read_config() == CONFIG
    run.data.write_text(json.dumps(json.loads(run.data.read_text())))
    assert run.read_data() == CARD


def test_removed_files_of_a_run_with_a_checkpoint_come_back_and_a_removed_summary_does_not(run):
    for name in FILES:
        (run.path / name).unlink()
    assert RunDirectory.existing(run.path).read_config() == CONFIG
    said = []
    run.mend(said.append)
    assert content(run) == (CONFIG, CARD, START, None)
    assert len(said) == 3


def test_another_run_may_begin_where_only_hidden_files_were_left(run):
    for name in FILES:
        (run.path / name).unlink()
    shutil.rmtree(run.checkpoints)
    run.mend(pytest.fail)
    with pytest.raises(UsageError, match="not a run directory"):
        RunDirectory.existing(run.path)
    other = RunDirectory.open(run.path, RunConfig(seed=3))
    assert other.read_config().seed == 3
    assert other.read_start() is None
    with pytest.raises(RunError, match="stopped before it began"):
        other.read_data()


@pytest.mark.parametrize("stop_at", range(1, 4))
def test_a_process_killed_while_it_changes_a_file_leaves_the_old_or_the_new_one(run, monkeypatch, stop_at):
    longer, calls, replace = RunConfig(seed=5), [], os.replace

    class Killed(BaseException):
        pass

    def killing(*paths):
        calls.append(paths)
        if len(calls) == stop_at:
            raise Killed
        replace(*paths)

    monkeypatch.setattr("resnet_jax.runtime.files.os.replace", killing)
    with pytest.raises(Killed):
        run.write_config(longer)
    monkeypatch.undo()
    assert run.read_config() == (CONFIG if stop_at < 3 else longer)
    run.write_config(longer)
    assert run.read_config() == longer


def test_a_run_of_before_has_no_second_copy_and_gets_one_when_it_goes_on(run):
    (run.path / NAME).unlink()
    assert content(run) == (CONFIG, CARD, START, SUMMARY)
    RunDirectory.open(run.path, CONFIG)
    assert run.kept.texts(run.data) == [run.data.read_text()]
    (run.path / NAME).unlink()
    for name, error in (("config.yaml", UsageError), ("data.json", DamagedError), ("summary.json", DamagedError)):
        path = run.path / name
        whole = path.read_bytes()
        path.write_bytes(b"{")
        with pytest.raises(error, match=re.escape(name)):
            content(run)
        path.write_bytes(whole)


@pytest.mark.parametrize("damage", [b"", b"{", b"\0\0", b'{"files": 5}', b'{"files": {"data.json": [{"text": "x"}]}}'])
def test_a_damaged_second_copy_is_none(run, damage):
    (run.path / NAME).write_bytes(damage)
    assert content(run) == (CONFIG, CARD, START, SUMMARY)
    RunDirectory.open(run.path, CONFIG)
    assert run.kept.texts(run.data) == [run.data.read_text()]


@pytest.mark.parametrize(
    ("change", "says"),
    [({"image_shape": "x"}, "image_shape"), ({"new": 1}, "unknown field 'new'"), ({"examples": [1]}, "examples")],
)
def test_wrong_types_are_named(run, change, says):
    (run.path / NAME).unlink()
    run.data.write_text(json.dumps({**json.loads(run.data.read_text()), **change}))
    with pytest.raises(ResNetJaxError, match=f"data.json is damaged .*{says}"):
        run.read_data()
