"""The log of events: whole lines, read whatever happened to it, and bounded."""

from __future__ import annotations

import json
import math

from resnet_jax.runtime import events
from resnet_jax.runtime.events import NO_EVENTS, EventLog, read_events


def test_events_come_back_with_their_time_and_what_is_not_finite_is_null(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.add("reject", step=5, loss=math.nan)
    log.add("stop", step=6, reason="SIGTERM")
    found = read_events(tmp_path / "events.jsonl")
    assert [(row["event"], row["step"]) for row in found] == [("reject", 5), ("stop", 6)]
    assert found[0]["loss"] is None
    assert found[0]["time"].endswith("+00:00")
    NO_EVENTS.add("stop")


def test_lines_that_are_none_are_left_out(tmp_path):
    path = tmp_path / "events.jsonl"
    assert read_events(path) == []
    good = json.dumps({"event": "stop", "step": 1}).encode()
    path.write_bytes(b"\n".join([good, b"\xff\0", b"[" * 10**5, b"5", b'{"step": 1}', good, b'{"event": "st']))
    assert [row["event"] for row in read_events(path)] == ["stop", "stop"]


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path):
    EventLog(tmp_path / "no" / "events.jsonl").add("stop", step=1)
    EventLog(tmp_path).add("stop", step=1)


def test_a_run_that_rejects_a_million_updates_has_a_small_log(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "MOST_BYTES", 4000)
    path = tmp_path / "events.jsonl"
    log, sizes = EventLog(path), []
    log.add("start", process=1)
    for step in range(1, 1001):
        log.add("reject", step=step, loss=math.inf)
        sizes.append(path.stat().st_size)
    found = read_events(path)
    assert max(sizes) <= 4200
    assert found[0]["event"] == "start"
    assert found[-1]["step"] == 1000
    (left_out,) = [row for row in found if row["event"] == "left_out"]
    assert left_out["count"] + len(found) - 1 == 1001
