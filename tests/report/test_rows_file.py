"""Files of rows: exact after a resume, and never half-believed when somebody else was at them."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.errors import DamagedError
from resnet_jax.report.depth_file import DepthFile, read_depth
from resnet_jax.report.metrics_file import MetricsFile, read_metrics
from resnet_jax.runtime.events import EventLog, read_events

STEP = {"epoch": 0.5, "loss": 0.1, "accuracy": 0.5, "grad_norm": 3.0}


def writer(path: Path, start: int = 0, records=None, said=None, events=None) -> MetricsFile:
    said = [] if said is None else said
    log = EventLog(None) if events is None else EventLog(events)
    return MetricsFile(
        path, start_step=start, every=1, learning_rate=lambda t: 0.1, records=records, warn=said.append, events=log
    )


def written(path: Path, steps: int = 10, saved: int = 7) -> tuple[dict, bytes]:
    """Write a file as a run that is killed after ``steps``; return what its checkpoint knew, and those bytes."""
    metrics = writer(path)
    records: dict = {}
    for step in range(1, steps + 1):
        metrics.on_step({**STEP, "step": step})
        if step == saved:
            records = json.loads(json.dumps(metrics.position()))
    metrics.close()
    lines = path.read_bytes().splitlines(keepends=True)
    return records, b"".join(lines[:saved])


def test_a_resumed_file_keeps_its_bytes_and_loses_only_what_comes_again(tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    records, kept = written(path)
    whole = path.read_bytes()
    with path.open("ab") as file:  # killed while it wrote
        file.write(b'{"kind": "tr')
    inode = path.stat().st_ino
    metrics = writer(path, 7, records, said)
    assert path.read_bytes() == kept
    for step in (8, 9, 10):
        metrics.on_step({**STEP, "step": step})
    metrics.close()
    assert (path.read_bytes(), path.stat().st_ino, said) == (whole, inode, [])
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]


#: What somebody does to the file -> what is said of it, and the steps that are left.
DAMAGES = {
    "a bad line in the middle": (lambda rows: [*rows[:2], b"{oops\n", *rows[3:]], "line 3 is no JSON", "1 2 4 5 6 7"),
    "a line is missing": (lambda rows: [*rows[:2], *rows[3:]], "has 6 of the 7 lines up to step 7", "1 2 4 5 6 7"),
    "rows are doubled": (lambda rows: [*rows[:4], *rows[2:]], "line 5 is step 3 a second time", "1 2 3 4 5 6 7"),
    "a wrong type": (
        lambda rows: [rows[0], rows[1].replace(b'"loss": 0.1', b'"loss": "low"'), *rows[2:]],
        "line 2 has a 'loss' that is no number",
        "1 3 4 5 6 7",
    ),
    "NUL bytes": (lambda rows: [rows[0], b"\0" * 40 + b"\n", *rows[2:]], "line 2 is no JSON", "1 3 4 5 6 7"),
    "not UTF-8": (lambda rows: [rows[0], b'{"kind": "\xff"}\n', *rows[2:]], "line 2 is not UTF-8", "1 3 4 5 6 7"),
    "a list": (lambda rows: [*rows[:3], b"[1, 2]\n", *rows[4:]], "line 4 is no JSON object", "1 2 3 5 6 7"),
    "nested too deep": (lambda rows: [rows[0], b"[" * 10**5 + b"\n", *rows[2:]], "line 2 is no JSON", "1 3 4 5 6 7"),
    "cut short": (lambda rows: [*rows[:4], rows[4][:20]], "has 4 of the 7 lines up to step 7", "1 2 3 4"),
    "a value edited": (
        lambda rows: [rows[0].replace(b"0.1", b"0.9"), *rows[1:]],
        "it was changed since, somewhere before step 7",
        "1 2 3 4 5 6 7",
    ),
    "emptied": (lambda rows: [], "has 0 of the 7 lines up to step 7", ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_set_aside_and_its_rows_are_kept(tmp_path, damage):
    path, said, events = tmp_path / "metrics.jsonl", [], tmp_path / "events.jsonl"
    records, _ = written(path)
    change, reason, left = DAMAGES[damage]
    steps = [int(step) for step in left.split()]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))
    damaged = path.read_bytes()
    metrics = writer(path, 7, records, said, events)
    again = writer(tmp_path / "metrics.jsonl", 7, metrics.position())  # a second resume finds nothing wrong
    assert [row["step"] for row in read_metrics(path)] == steps
    assert len(said) == 1, said
    assert reason in said[0]
    assert "metrics.jsonl.damaged-1" in said[0]
    assert (tmp_path / "metrics.jsonl.damaged-1").read_bytes() == damaged
    assert not (tmp_path / "metrics.jsonl.damaged-2").exists()
    if len(steps) < 7 and reason.startswith("line"):
        assert "1 row is lost" in said[0]
    if steps == [1, 2, 4, 5, 6, 7] and damage != "rows are doubled":
        assert "between steps 2 and 4" in said[0]
    for line in path.read_bytes().splitlines(keepends=True):
        assert line in damaged
    (event,) = read_events(events)
    assert (event["event"], event["what"], event["set_aside"]) == (
        "damaged",
        "metrics.jsonl",
        "metrics.jsonl.damaged-1",
    )
    metrics.close()
    again.close()


def test_a_directory_in_its_place_and_a_file_that_is_gone_are_said(tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    records, _ = written(path)
    path.unlink()
    writer(path, 7, records, said).close()
    assert "it is missing; 7 rows are lost between steps 0 and 7" in said[0]
    path.unlink()
    path.mkdir()
    writer(path, 7, records, said).close()
    assert "it is no file; 7 rows are lost" in said[1]
    assert (tmp_path / "metrics.jsonl.damaged-1").is_dir()
    assert path.is_file()


def test_a_checkpoint_of_before_knows_no_position_and_a_bad_line_still_costs_one_row_only(tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    written(path, steps=400)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:28], b"\0\0\0\n", *lines[29:]]) + b'{"kind"')
    writer(path, 350, None, said).close()
    assert [row["step"] for row in read_metrics(path)] == [step for step in range(1, 351) if step != 29]
    assert "line 29 is no JSON; rows are missing between steps 28 and 30" in said[0]
    path.write_bytes(b"".join(lines) + b'{"kind"')
    writer(path, 350, None, said).close()
    assert (path.read_bytes(), len(said)) == (b"".join(lines[:350]), 1)


def test_a_reader_names_the_line_and_uses_the_others(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"?\n", *lines[2:]]) + b"{")
    assert len(read_metrics(path)) == 9
    assert "metrics.jsonl is damaged: line 2 is no JSON; the other 9 rows are used" in caplog.text


def full_disk(patch, room: int, path: Path) -> list[int]:
    """Let ``path`` grow to ``room[0]`` bytes only."""
    left, pwrite = [room], os.pwrite

    def limited(descriptor, data, offset):
        size = min(len(data), max(left[0] - offset, 0))
        if not size:
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, data[:size], offset)

    patch.setattr(os, "pwrite", limited)
    return left


def test_what_a_full_disk_refuses_waits_and_is_written_once_there_is_room(tmp_path, monkeypatch):
    path, said = tmp_path / "metrics.jsonl", []
    _, _ = written(tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    monkeypatch.setattr("resnet_jax.report.steady_file.RETRY_SECONDS", 0)
    left = full_disk(monkeypatch, 250, path)
    metrics = writer(path, said=said, events=tmp_path / "events.jsonl")
    for step in range(1, 9):
        metrics.on_step({**STEP, "step": step})
    assert path.read_bytes() == whole[: len(path.read_bytes())]
    assert path.read_bytes().endswith(b"\n"), "no half line"
    assert len(said) == 1
    assert "cannot be written: No space left on device. Training continues" in said[0]
    records = json.loads(json.dumps(metrics.position()))  # saved, and then killed: the checkpoint has what waits
    left[0] = 10**6
    for step in (9, 10):
        metrics.on_step({**STEP, "step": step})
    metrics.close()
    assert path.read_bytes() == whole
    assert len(said) == 2
    assert "no row is missing" in said[1]
    assert [row["event"] for row in read_events(tmp_path / "events.jsonl")] == ["write_failed", "write_resumed"]
    path.write_bytes(whole[: records["metrics.jsonl"]["size"]])
    resumed = writer(path, 8, records)
    for step in (9, 10):
        resumed.on_step({**STEP, "step": step})
    resumed.close()
    assert path.read_bytes() == whole


def test_what_never_finds_room_is_said_at_the_end(tmp_path, monkeypatch):
    path, said = tmp_path / "metrics.jsonl", []
    full_disk(monkeypatch, 250, path)
    monkeypatch.setattr("resnet_jax.report.steady_file.MOST_WAITING", 300)
    metrics = writer(path, said=said)
    for step in range(1, 9):
        metrics.on_step({**STEP, "step": step})
    metrics.close()
    there = len(path.read_bytes().splitlines())
    assert f"lacks {8 - there} rows of steps {there + 1} to 8: they could not be written (No space left" in said[1]
    assert len(said) == 2


def test_a_limit_on_the_size_of_files_is_a_warning(tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        metrics = writer(path, said=said)
        for step in range(1, 5):
            metrics.on_step({**STEP, "step": step})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot be written: File too large" in said[0]
    metrics.close()
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]


def depth(path: Path, start: int, records=None, said=None) -> DepthFile:
    said = [] if said is None else said
    return DepthFile(
        path, ("a", "b"), np.arange(2), start_step=start, every=1, records=records, warn=said.append
    )  # fmt: skip


@pytest.mark.parametrize("knows", [True, False])
@pytest.mark.parametrize("header", [b"", b"{}\n", b'{"blocks": ["a"], "stage": [0]}\n'])
def test_a_depth_file_without_its_header_gets_one(tmp_path, knows, header):
    path, said = tmp_path / "depth.jsonl", []
    file = depth(path, 0)
    for step in (1, 2, 3):
        file.on_blocks(step, np.asarray([step, 2.0]))
    records = dict(file.position())
    file.close()
    whole = path.read_bytes()
    path.write_bytes(header + b"".join(whole.splitlines(keepends=True)[1:]))
    if header != b"{}\n":
        with pytest.raises(DamagedError, match=r"depth.jsonl is damaged: .*first line"):
            read_depth(path)
    depth(path, 3, records if knows else None, said).close()
    assert path.read_bytes() == whole
    assert "line 1" in said[0]
    assert "header" in said[0] or "no step" in said[0] or "no gradient norms" in said[0]
    assert read_depth(path).steps.tolist() == [1, 2, 3]


def test_a_depth_row_of_other_blocks_is_left_out(tmp_path):
    path, said = tmp_path / "depth.jsonl", []
    file = depth(path, 0)
    for step in (1, 2, 3):
        file.on_blocks(step, np.asarray([step, 2.0]))
    file.close()
    path.write_bytes(path.read_bytes().replace(b"[2.0, 2.0]", b"[2.0, 2.0, 5.0]"))
    with pytest.raises(DamagedError, match=r"its row of step 2 is not of the 2 blocks"):
        read_depth(path)
    depth(path, 3, None, said).close()
    assert "line 3 has the norms of 3 blocks, and the network has 2" in said[0]
    assert read_depth(path).steps.tolist() == [1, 3]
