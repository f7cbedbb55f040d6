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
from resnet_jax.training.cadence import Cadence
from resnet_jax.training.observers import RunFacts


def facts(run_dir, start_step=0, every=1):
    return RunFacts("run", run_dir, {"seed": 0}, start_step, 100, 10, 8, Cadence(period=every))


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
    board = TensorBoard()
    board.on_start(facts(tmp_path))
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
    (events,) = tmp_path.glob("tensorboard/events.out.tfevents.*")
    assert b"step/loss_scale" in events.read_bytes()
    assert b"step/grad_norm" not in events.read_bytes()
    plot_curves(read_metrics(path), tmp_path / "curves.png", title="run")


def test_tensorboard_events_hold_the_scalars(tmp_path):
    board = TensorBoard()
    board.on_start(facts(tmp_path))
    board.on_step(STEP)
    board.on_epoch(EPOCH)
    board.close()
    (events,) = tmp_path.glob("tensorboard/events.out.tfevents.*")
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
    for text in ("epoch 1/2", "images/s", "loss 1.000", "accuracy 50.00%", "ETA"):
        assert text in out.getvalue()


def drawn_figures(monkeypatch):
    """Return the list that every figure drawn from now on is put into, as it was drawn."""
    figures = []

    def keep(figure, path):
        figure.canvas.draw()
        figures.append(figure)

    monkeypatch.setattr("resnet_jax.report.plots.save_figure", keep)
    return figures


def labels(axis):
    low, high = sorted(axis.get_view_interval())
    return [tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


@pytest.mark.parametrize("losses", [(6.2, 5.15), (2.3, 0.02), (0.0999, 0.0981), (1e5, 3.0), (3e-5, 1e-9), (2.0, 2.0)])
def test_the_loss_axis_has_numbers_that_people_read(tmp_path, monkeypatch, losses):
    figures = drawn_figures(monkeypatch)
    rows = [{**EPOCH, "kind": "epoch", "epoch": float(e), "loss": x, "val_loss": x} for e, x in enumerate(losses, 1)]
    plot_curves(rows, tmp_path / "c.png", title="run")
    shown = [text for text in labels(figures[0].axes[0].yaxis) if text]
    assert len(shown) >= 2
    assert not [text for text in shown if "$" in text or "×" in text or "10⁰" in text or "mathdefault" in text]


@pytest.mark.parametrize(
    ("epochs", "said"),
    [((0.15,), "best 70.00% after 0.15 epochs"), ((1.0,), "best 70.00% at epoch 1"), ((1, 2, 3), "at epoch 1")],
)
def test_the_best_epoch_is_counted_from_one(tmp_path, monkeypatch, epochs, said):
    figures = drawn_figures(monkeypatch)
    plot_curves([{**EPOCH, "kind": "epoch", "epoch": epoch} for epoch in epochs], tmp_path / "c.png", title="run")
    accuracy = figures[0].axes[1]
    assert said in accuracy.get_legend().get_texts()[-1].get_text()
    shown = labels(accuracy.xaxis)
    assert len(set(shown)) == len(shown) <= 8


def test_losses_that_are_no_numbers_are_counted(tmp_path, monkeypatch):
    figures = drawn_figures(monkeypatch)
    rows = [{**EPOCH, "kind": "epoch", "epoch": 1.0}]
    rows += [{**EPOCH, "kind": "epoch", "epoch": 2.0, "loss": None, "val_loss": None, "val_accuracy": None}]
    plot_curves(rows, tmp_path / "c.png", title="run")
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["2 of 4 losses are not finite"]
    plot_curves([{**row, "loss": None, "val_loss": None} for row in rows], tmp_path / "c.png", title="run")
    assert [text.get_text() for text in figures[1].axes[0].texts] == ["4 of 4 losses are not finite"]


@pytest.mark.parametrize("classes", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (10, 1000)), 25, 26])
def test_no_title_or_name_is_cut_off(tmp_path, monkeypatch, classes):
    figures = drawn_figures(monkeypatch)
    names = [f"a_rather_long_name_of_the_species_{index}_of_birds_that_live_here" for index in range(classes)]
    title = "resnet20_cifar on folder:a_folder_of_photographs (recipe mine, seed 0): 3 of 9 test images"
    plot_confusion(np.eye(classes, dtype=int), names, tmp_path / "c.png", title=title)
    plot_curves([{**EPOCH, "kind": "epoch"}], tmp_path / "c.png", title=title * 3)
    for figure in figures:
        texts = [figure._suptitle, *(label for axes in figure.axes for label in axes.get_yticklabels())]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        assert min(box.x0 for box in boxes) >= -1
        assert max(box.x1 for box in boxes) <= figure.bbox.width + 1
    if classes <= 25:
        shown = [label.get_text() for label in figures[0].axes[0].get_yticklabels()]
        assert len(set(shown)) == classes


def test_classes_drawn_together_keep_their_numbers(tmp_path, monkeypatch):
    figures = drawn_figures(monkeypatch)
    plot_confusion(np.eye(1500, dtype=int), ["x"] * 1500, tmp_path / "c.png", title="run")
    axes = figures[0].axes[0]
    assert axes.get_xlim()[1] >= 1499
    assert axes.get_xlabel() == "predicted class, by its number (0 to 1,499, 3 classes together)"


def test_validations_within_an_epoch_are_drawn_too(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("resnet_jax.report.plots.save_figure", lambda figure, path: figures.append(figure))
    within = {"kind": "validation", "step": 1, "epoch": 0.5, "val_loss": 0.9, "val_accuracy": 0.8}
    last = {
        "kind": "epoch",
        "step": 2,
        "epoch": 1.0,
        "loss": 1.0,
        "accuracy": 0.6,
        "val_loss": 0.5,
        "val_accuracy": 0.7,
    }
    plot_curves([within, last], tmp_path / "c.png", title="run")
    loss, metric, _ = figures[0].axes
    assert [line.get_xydata().tolist() for line in loss.lines if line.get_label() == "validation"] == [
        [[0.5, 0.9], [1.0, 0.5]]
    ]
    assert "best 80.00% after 0.5 epochs" in [line.get_label() for line in metric.lines]
