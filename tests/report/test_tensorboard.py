"""TensorBoard's files: every scalar once, after any kill and resume."""

from __future__ import annotations

import json
import os
import struct

import pytest

from resnet_jax.report.event_records import encode, read_scalars, records_of
from resnet_jax.report.tensorboard import TensorBoard
from resnet_jax.training.cadence import Cadence
from resnet_jax.training.observers import RunFacts

ROW = {"epoch": 0.5, "loss": 0.25, "accuracy": 0.5, "grad_norm": 3.0}


def board(path, start=0, records=None, said=None) -> TensorBoard:
    observer, warn = TensorBoard(), ([] if said is None else said).append
    observer.on_start(RunFacts("run", path, {}, start, 100, 10, 8, Cadence(period=1), records or {}, warn=warn))
    return observer


def trained(path, steps, start=0, records=None, saved=None, said=None):
    """Write the events of some steps, and stop as a kill does; return what the checkpoint at ``saved`` knew."""
    observer = board(path, start, records, said)
    found = {}
    for step in range(start + 1, steps + 1):
        observer.on_step({**ROW, "step": step, "loss": 1 / step})
        if step % 10 == 0:
            observer.on_epoch({**ROW, "step": step, "val_loss": 1 / step})
        if step == saved:
            found = json.loads(json.dumps(observer.position()))
    observer.close()
    return found


def files(path):
    return sorted((path / "tensorboard").glob("*"))


@pytest.fixture
def whole(tmp_path):
    trained(tmp_path / "whole", 30)
    return read_scalars(tmp_path / "whole" / "tensorboard")


@pytest.mark.parametrize("knows", [True, False])
@pytest.mark.parametrize(("killed", "saved"), [(7, 0), (25, 20)])
def test_killed_and_resumed_every_scalar_is_there_once(tmp_path, whole, killed, saved, knows):
    """Also where no checkpoint was written yet, and of checkpoints that know no position."""
    run, said = tmp_path / "run", []
    records = trained(run, killed, saved=saved)
    (file,) = files(run)
    file.write_bytes(file.read_bytes()[:-5])  # killed while it wrote
    trained(run, 30, start=saved, records=records if knows else None, said=said)
    assert read_scalars(run / "tensorboard") == whole
    assert (files(run), said) == ([file], [])


def test_a_run_that_goes_back_leaves_no_scalar_twice(tmp_path, whole):
    """A loss spike sends it to a checkpoint, within one session."""
    run, warn = tmp_path / "run", pytest.fail
    observer, records = board(run), {}
    for start, steps in ((0, 27), (20, 30)):
        if start:
            observer.on_rollback(
                RunFacts("run", run, {}, start, 100, 10, 8, Cadence(period=1), records, warn=warn)
            )  # fmt: skip
        for step in range(start + 1, steps + 1):
            observer.on_step({**ROW, "step": step, "loss": 1 / step})
            if step % 10 == 0:
                observer.on_epoch({**ROW, "step": step, "val_loss": 1 / step})
                records = dict(observer.position())
    observer.close()
    assert read_scalars(run / "tensorboard") == whole


def test_what_earlier_versions_left_doubled_becomes_one_file(tmp_path, whole):
    """A file a session, with events after the step that the next one started at; files of others stay."""
    run = tmp_path / "run"
    for number, (start, steps) in enumerate(((0, 17), (0, 25), (20, 24))):
        other = tmp_path / f"session{number}"
        trained(other, steps, start=start)
        (run / "tensorboard").mkdir(parents=True, exist_ok=True)
        files(other)[0].rename(run / "tensorboard" / f"events.out.tfevents.100{number}.host.{start}")
    foreign = run / "tensorboard" / "notes.txt"
    foreign.write_text("mine")
    trained(run, 30, start=20)
    assert sorted(read_scalars(run / "tensorboard")) == sorted(whole)
    assert [path.name for path in files(run)] == ["events.out.tfevents.1000.host.0", "notes.txt"]


def test_a_damaged_record_costs_itself_and_is_said(tmp_path, whole):
    run, said = tmp_path / "run", []
    records = trained(run, 25, saved=20)
    (file,) = files(run)
    content = bytearray(file.read_bytes())
    content[content.index(struct.pack("<f", 1 / 4))] ^= 1
    file.write_bytes(content)
    trained(run, 30, start=20, records=records, said=said)
    lost = [scalar for scalar in whole if scalar not in read_scalars(run / "tensorboard")]
    assert lost == [("step/loss", 4, 0.25)]
    assert "1 of its records cannot be read; 1 scalars up to step 20 are lost there" in said[0]
    file.unlink()
    trained(run, 30, start=20, records=records, said=said)
    assert "it is missing; 68 scalars" in said[1]


def test_a_full_disk_stops_nothing_and_leaves_no_gap(tmp_path, whole, monkeypatch):
    run, said, room, pwrite = tmp_path / "run", [], [700], os.pwrite

    def limited(descriptor, data, offset):
        if not (size := min(len(data), max(room[0] - offset, 0))):
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, data[:size], offset)

    monkeypatch.setattr(os, "pwrite", limited)
    observer = board(run, said=said)
    for step in range(1, 31):
        observer.on_step({**ROW, "step": step, "loss": 1 / step})
        if step % 10 == 0:
            observer.on_epoch({**ROW, "step": step, "val_loss": 1 / step})
        if step == 20:
            events = [event for path in files(run) for _, event in records_of(path)]
            assert None not in events, "no half record"
            room[0] = 10**6
    observer.close()
    assert read_scalars(run / "tensorboard") == whole
    assert len(said) == 2
    assert "cannot be written: No space left on device. Training continues" in said[0]


def test_records_are_those_of_tensorboardx(tmp_path):
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import RecordWriter

    event = event_pb2.Event(wall_time=1.0, step=3, file_version="x")
    writer = RecordWriter(str(tmp_path / "theirs"))
    writer.write(event.SerializeToString())
    writer.close()
    assert (tmp_path / "theirs").read_bytes() == encode(event)
