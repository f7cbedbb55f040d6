"""The experiment of several processes: what it counts and compares. The processes are those of tests/runs."""

from __future__ import annotations

import json

import pytest

from experiments import processes


def test_any_number_of_processes_reads_the_same_global_batches():
    assert len({processes.batches_digest(count, batches=3) for count in (1, 2, 4)}) == 1


@pytest.mark.parametrize(("steps", "once"), [([1, 2, 3], True), ([1, 2, 2, 3], False), ([1, 3], False)])
def test_rows_that_are_doubled_or_missing_are_found(tmp_path, steps, once):
    rows = [{"kind": "train", "step": step} for step in steps] + [{"kind": "epoch", "step": 3}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert processes.rows_once(tmp_path, 3) is once


@pytest.mark.slow
def test_two_processes_and_a_kill(tmp_path, capfd):
    processes.main(["--steps", "24", "--quick", "--out", str(tmp_path)])
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert found["identical"] == {"1": True}
    assert all(found["rows_once"].values())
    assert max(found["max_difference"].values()) < 1e-4
    assert found["ended_after"]["1"] < 15
