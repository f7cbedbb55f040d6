"""``resnet-jax events``: a sentence for every event, of any version."""

from __future__ import annotations

import json

import pytest

from resnet_jax.report.event_sentences import sentence
from resnet_jax.runtime.events import EventLog
from tests.cli.conftest import last_json

EVENTS = [
    ("start", {"process": 12, "host": "a", "devices": 2}, "process 12 on a, 2 devices"),
    ("restore", {"step": 1200, "repeated": 1}, "resumed after step 1,200; 1 step is repeated"),
    (
        "save",
        {"kind": "last", "step": 1250, "bytes": 3_200_000, "seconds": 0.5, "blocked": 0.002},
        "checkpoint last of step 1,250, 3.2 MB in 0.50 s, 0.002 s of that in the way of training",
    ),
    ("save_failed", {"kind": "best", "step": 5, "reason": "No space"}, "best of step 5 could not be written: No space"),
    ("interval", {"steps": 100}, "a checkpoint every 100 steps from now on"),
    ("damaged", {"what": "x", "reason": "cut", "set_aside": "x.damaged-1"}, "x: cut; set aside as x.damaged-1"),
    ("fallback", {"kind": "last", "step": 5, "instead_of": 9}, "checkpoint last of step 5 in place of that of step 9"),
    ("reject", {"step": 7, "loss": None, "grad_norm": 2.5}, "update 7: loss not finite, gradient 2.5"),
    ("rollback", {"step": 7, "to": 5, "loss": 3.0}, "loss 3 at step 7: back to step 5, in another order"),
    ("write_failed", {"what": "m", "reason": "full"}, "m: full; its rows wait in memory"),
    ("write_failed", {"what": "m", "reason": "full", "lost": 3}, "m: full; 3 rows are missing"),
    ("write_resumed", {"what": "m"}, "m can be written again"),
    ("left_out", {"count": 5000}, "5,000 events of the middle were left out"),
    ("stop", {"step": 9, "reason": "SIGTERM"}, "after step 9: SIGTERM"),
    ("end", {"step": 10, "reason": "steps"}, "after step 10: steps"),
    ("mine", {"colour": "red"}, "colour red"),
    ("save", {"kind": "last"}, "kind last"),
    ("restore", {"step": "x\n", "repeated": []}, r"step x"),
]


def test_every_event_has_a_line(tmp_path, command):
    log = EventLog(tmp_path / "events.jsonl")
    for event, facts, _ in EVENTS:
        log.add(event, **facts)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "st')  # killed while it wrote
    status, out, err = command("events", tmp_path)
    assert status == 0
    lines = (out + err).splitlines()
    assert len(lines) == len(EVENTS)
    for line, (event, _, said) in zip(lines, EVENTS, strict=True):
        assert line.split()[2] == event
        assert said in line
    status, out, _ = command("events", tmp_path, "--json", "--only", "stop", "end")
    assert [row["event"] for row in last_json(out)] == ["stop", "end"]


@pytest.mark.parametrize("event", [{"event": "start"}, {"event": "save", "step": None}, {"event": 5, "x": "y" * 500}])
def test_an_event_of_another_version_is_listed(event):
    assert len(sentence(json.loads(json.dumps(event)))) < 120


def test_a_directory_without_a_log_is_said(tmp_path, command):
    status, _, err = command("events", tmp_path)
    assert (status, "is not a run directory" in err) == (2, True)
    (tmp_path / "config.yaml").write_text("recipe: digits\n")
    status, _, err = command("events", tmp_path)
    assert (status, "has no events.jsonl" in err) == (2, True)
