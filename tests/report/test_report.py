"""Metric files, pictures and progress."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console as RichConsole

from resnet_jax.report.console import Console
from resnet_jax.report.metrics_file import MetricsFile, read_metrics
from resnet_jax.report.plots import plot_confusion, plot_curves
from resnet_jax.report.tensorboard import TensorBoard

STEP = {"step": 2, "epoch": 0.5, "loss": 1.0, "accuracy": 0.5, "grad_norm": 3.0}
EPOCH = {"step": 4, "epoch": 1.0, "loss": 0.9, "accuracy": 0.6, "val_loss": 0.8, "val_accuracy": 0.7}


def test_rows_are_written_when_due_with_the_rate_of_their_update(tmp_path):
    metrics = MetricsFile(tmp_path / "m.jsonl", start_step=0, every=2, learning_rate=lambda t: 0.1 * t)
    for step in (1, 2, 3, 4):
        metrics.on_step({**STEP, "step": step})
    metrics.on_epoch(EPOCH)
    metrics.close()
    rows = read_metrics(tmp_path / "m.jsonl")
    assert [(row["kind"], row["step"]) for row in rows] == [("train", 2), ("train", 4), ("epoch", 4)]
    assert [row["learning_rate"] for row in rows[:2]] == [0.1, pytest.approx(0.3)]


def test_a_resumed_file_has_no_row_twice_and_survives_a_torn_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(
        "".join(json.dumps({"kind": "train", **STEP, "step": s}) + "\n" for s in (1, 2, 3)) + '{"kind": "tr'
    )
    metrics = MetricsFile(path, start_step=2, every=1, learning_rate=lambda t: 0.1)
    metrics.on_step({**STEP, "step": 3})
    metrics.close()
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_step_that_the_loss_scale_skipped(tmp_path):
    """Numbers that are not finite are null, and the rate is that of the updates made."""
    path = tmp_path / "m.jsonl"
    metrics = MetricsFile(path, start_step=0, every=1, learning_rate=lambda t: 0.1 * t)
    board = TensorBoard(tmp_path, start_step=0, every=1)
    for skipped, step in enumerate((1, 2), 1):
        row = {**STEP, "step": step, "loss": float("nan"), "grad_norm": float("inf"), "loss_scale": 8.0}
        metrics.on_step({**row, "skipped": skipped})
        board.on_step({**row, "skipped": skipped})
    metrics.on_step({**STEP, "step": 5, "loss_scale": 2.0, "skipped": 2})
    metrics.close()
    board.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    first, second, third = (json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines())
    assert (first["loss"], first["grad_norm"], first["loss_scale"]) == (None, None, 8.0)
    assert [row["learning_rate"] for row in (first, second, third)] == [0.0, 0.0, pytest.approx(0.2)]
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert b"step/loss_scale" in events.read_bytes()
    assert b"step/grad_norm" not in events.read_bytes()
    plot_curves(read_metrics(path), tmp_path / "curves.png", title="run")


def test_tensorboard_events_hold_the_scalars(tmp_path):
    board = TensorBoard(tmp_path, start_step=0, every=1)
    board.on_step(STEP)
    board.on_epoch(EPOCH)
    board.close()
    (events,) = tmp_path.glob("events.out.tfevents.*")
    content = events.read_bytes()
    for tag in (b"step/loss", b"step/grad_norm", b"epoch/val_accuracy"):
        assert tag in content


@pytest.mark.parametrize("rows", [[], [{"kind": "epoch", **EPOCH}], [{"kind": "train", **STEP, "learning_rate": 0.1}]])
def test_curves_of_any_length_are_drawn(tmp_path, rows):
    plot_curves(rows, tmp_path / "curves.png", title="run")
    assert (tmp_path / "curves.png").stat().st_size > 5_000


@pytest.mark.parametrize("classes", [2, 10, 120])
def test_confusion_of_any_number_of_classes_is_drawn(tmp_path, classes):
    confusion = np.diag(np.arange(classes))  # class 0 has no examples
    plot_confusion(confusion, [f"class {i}" for i in range(classes)], tmp_path / "c.png", title="run")
    assert (tmp_path / "c.png").stat().st_size > 5_000


def test_without_a_terminal_progress_is_a_line_per_epoch():
    out = io.StringIO()
    live = Console(
        total_steps=8, steps_per_epoch=4, start_step=0, batch_size=16, console=RichConsole(file=out, width=40)
    )
    live.on_step(STEP)
    live.on_epoch({**EPOCH, "images_per_second": 1234.5})
    live.close()
    assert out.getvalue() == (
        "epoch 1/2  loss 0.9000  accuracy  60.00%  val loss 0.8000  val accuracy  70.00%  1,234 images/s\n"
    )


def test_on_a_terminal_there_is_a_bar_with_what_people_wait_for():
    out = io.StringIO()
    console = RichConsole(file=out, width=140, force_terminal=True)
    live = Console(total_steps=8, steps_per_epoch=4, start_step=0, batch_size=16, console=console)
    live.on_step(STEP)
    live._progress.refresh()
    live.close()
    for text in ("epoch 1/2", "images/s", "loss 1.000", "accuracy 50.0%", "ETA"):
        assert text in out.getvalue()
