"""Every figure says what it shows: a title, and a name at every axis that has numbers."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_jax.deploy.card.render import reliability
from resnet_jax.deploy.card.temperature import Calibration
from resnet_jax.deploy.prune.sweep import Point, draw_points
from resnet_jax.report import depth_figures, depth_instruments as instruments
from resnet_jax.report.ablation_plot import CellCurves, plot_ablation
from resnet_jax.report.compare_figures import Curves, draw_curves
from resnet_jax.report.depth_axes import DepthAxis
from resnet_jax.report.plots import plot_confusion, plot_curves
from resnet_jax.report.prediction_plots import plot_label_precision, plot_scatter
from resnet_jax.report.range_plot import plot_range
from resnet_jax.report.task_gradients import TaskGradients, draw_task_gradients
from resnet_jax.report.task_plots import plot_task_rows
from resnet_jax.search.figures import draw_history, draw_importance, draw_parallel
from resnet_jax.search.space import Dimension
from resnet_jax.search.study import Trial

DEPTH = DepthAxis(np.array([0, 0, 1]))
VALUES = np.array([0.5, 1.0, 2.0])
ROW = {"step": 2, "epoch": 1.0, "loss": 1.0, "val_loss": 0.8}
TRIALS = [Trial(n, {"optim.momentum": 0.1 * n}, 0, "complete", {9: 0.5 + 0.1 * n}, 9) for n in range(3)]
LABEL = np.array([0, 1, 1])
SHARE = np.array([[0.1], [0.9], [0.4]])
CELL = CellCurves("norm batch", "validation accuracy", {0: [(1.0, 0.5)], 1: [(1.0, 0.6)]}, {})


def unnamed(figure):
    """Return the axes of a figure that have numbers and no name."""
    found = []
    for axes in figure.axes:
        for name, axis, shared, above in (
            ("x", axes.xaxis, axes.get_shared_x_axes(), figure._supxlabel),
            ("y", axes.yaxis, axes.get_shared_y_axes(), figure._supylabel),
        ):
            siblings = shared.get_siblings(axes)
            named = above is not None or any(getattr(one, f"{name}axis").get_label_text() for one in siblings)
            if axes.get_visible() and axes.axison and len(axis.get_ticklocs()) and axis.get_visible() and not named:
                found.append(f"{name} of {axes.get_title() or axes}")
    return found


def is_titled(figure):
    return figure._suptitle is not None or any(axes.get_title() or axes.get_title("left") for axes in figure.axes)


def files(path):
    """Draw what is written as a file with its title."""
    plot_curves([{"kind": "epoch", **ROW, "accuracy": 0.5, "val_accuracy": 0.6}], path, title="run")
    plot_curves([{"kind": "epoch", **ROW, "box_loss": 0.5, "val_ap50": 0.6}], path, title="run", headline="ap50")
    plot_confusion(np.eye(3, dtype=int), ["a", "b", "c"], path, title="run")
    plot_confusion(np.eye(30, dtype=int), ["x"] * 30, path, title="run")
    plot_ablation([CELL], path, title="ablation")
    rates = np.geomspace(1e-4, 1.0, 3)
    plot_range(path, title="range", rates=rates, losses=VALUES[None], smoothed=VALUES[None], marks={"steepest": 1e-2})
    plot_scatter(SHARE, SHARE, ["thickness"], path, title="test")
    plot_label_precision(LABEL[:, None], SHARE, ["striped"], path, title="test")
    rows = {"digit/label": LABEL, "digit/prediction": LABEL, "digit/there": LABEL >= 0}
    rows |= {"slant/label": SHARE, "slant/prediction": SHARE, "slant/there": LABEL >= 0}
    plot_task_rows(rows, {"digit": ["0", "1"]}, path, title="test")
    draw_parallel(TRIALS, [Dimension("optim.momentum", "range", (0.0, 1.0))], "accuracy", TRIALS[2], path, "search")
    draw_importance({"optim.momentum": 1.0}, 0.5, "accuracy", path, "search")
    draw_history(TRIALS, "accuracy", "max", path, "search")
    draw_points(path, [Point("full", 0.0, 3, 10, 10, 0.9, None, 0.1, 10.0, 1.0)], "pruned")


def pages():
    """Return what stands in a page, whose title is that of the figure."""
    counts = np.array([5, 5])
    calibration = Calibration(counts, np.array([0.2, 0.9]), np.array([0.3, 0.8]), 0.1, 0.5)
    return [
        depth_figures.activation_figure(DEPTH, VALUES, VALUES),
        depth_figures.dead_figure(DEPTH, VALUES / 4, VALUES / 8),
        depth_figures.branch_figure(DEPTH, VALUES, VALUES),
        depth_figures.branch_figure(DEPTH, VALUES * np.nan, VALUES),
        depth_figures.cosine_figure(DEPTH, VALUES / 4),
        depth_figures.gradient_figure(DEPTH, VALUES, VALUES, VALUES),
        depth_figures.share_figure(DEPTH, VALUES / 4),
        depth_figures.weights_figure(DEPTH, VALUES, VALUES),
        depth_figures.parameters_figure(DEPTH, ("a/kernel", "b/bias"), np.array([0, 2]), VALUES[:2], VALUES[:2]),
        instruments.singular_values_figure(DEPTH, VALUES, VALUES, VALUES, VALUES, VALUES),
        instruments.hessian_figure(DEPTH, VALUES),
        instruments.loss_lesion_figure(DEPTH, VALUES, 0.5),
        instruments.loss_deletions_figure(np.array([1, 2]), np.array([[0.1], [0.2]])),
        instruments.lesion_figure(DEPTH, VALUES / 4, 0.5),
        instruments.deletions_figure(np.array([1, 2]), np.array([[0.1], [0.2]])),
        instruments.permutations_figure(VALUES / 4, VALUES / 4),
        instruments.path_lengths_figure(np.arange(3), VALUES, VALUES / 4),
        instruments.heat_map_figure(DEPTH, [1, 2], np.stack([VALUES, VALUES])),
        draw_curves("x", "Loss", "", "loss", [Curves("a", [(np.arange(3), VALUES)])], scale="log"),
        reliability(calibration, calibration),
    ]


def test_every_file_has_a_title_and_named_axes(tmp_path, monkeypatch):
    figures = []
    for module in (
        "report.plots", "report.ablation_plot", "report.range_plot", "report.prediction_plots", "report.task_plots",
        "search.figures", "report.canvas",
    ):  # fmt: skip
        monkeypatch.setattr(f"resnet_jax.{module}.save_figure", lambda figure, path, **how: figures.append(figure))
    files(tmp_path / "x.png")
    cosines = np.stack([VALUES, VALUES])[:, None]
    found = TaskGradients(("a", "b", "c"), DEPTH.stage, (("digit", "parity"),), np.array([1, 2]), cosines)
    draw_task_gradients(found, tmp_path / "x.png", title="tasks")
    assert len(figures) == 14
    assert [name for figure in figures for name in unnamed(figure)] == []
    assert all(map(is_titled, figures))


def test_every_figure_of_a_page_has_named_axes():
    found = pages()
    assert [f"{one.name}: {name}" for one in found for name in unnamed(one.figure)] == []
    assert all(one.title for one in found)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_a_log_axis_says_so(scale):
    [axes] = instruments.draw_depth(
        "x", "x", "x", DEPTH, [instruments.Panel("size", [instruments.Line("", VALUES)], scale)]
    ).figure.axes
    assert ("log scale" in axes.get_ylabel()) == (scale == "log")
