"""Figures over depth: any number of blocks, missing values, stages marked, nothing that rests on colour alone."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_jax.report import depth_figures as draw, depth_instruments as more
from resnet_jax.report.depth_axes import LOOKS, DepthAxis, Line, Panel, draw_depth


def example_figures(blocks: int, seed: int = 0):
    """Every figure there is, of made-up values with gaps, zeros and infinities."""
    rng = np.random.default_rng(seed)
    depth = DepthAxis(np.sort(np.arange(blocks) % 3))
    gap = np.where(np.arange(blocks) % 7 == 3, np.nan, 1.0)

    def some(scale: float = 1.0) -> np.ndarray:
        return gap * 10 ** rng.normal(0, scale, blocks)

    share = rng.uniform(0, 1, blocks)
    zeros = np.where(np.arange(blocks) % 2, 0.0, 1.0)
    paths = tuple(f"stage1/block{i}/branch/conv1/{kind}" for i in range(blocks) for kind in ("kernel", "bias", "gain"))
    owner = np.repeat(np.arange(blocks), 3)
    lengths = np.arange(blocks + 1)
    return [
        draw.activation_figure(depth, some(3), rng.normal(size=blocks)),
        draw.dead_figure(depth, share, share * gap),
        draw.branch_figure(depth, some(), zeros),
        draw.cosine_figure(depth, rng.uniform(-1, 1, blocks)),
        draw.gradient_figure(depth, some(9), some(), some()),
        draw.share_figure(depth, share),
        draw.weights_figure(depth, some(), np.full(blocks, np.inf)),
        draw.parameters_figure(depth, paths, owner, np.ones(3 * blocks), np.tile(some(), 3)),
        more.singular_values_figure(depth, some() + 1, some() * 1e-6, some(), some(), some()),
        more.hessian_figure(depth, some()),
        more.lesion_figure(depth, share * gap, 0.9),
        more.deletions_figure(np.arange(1, 4), rng.uniform(0, 1, (3, 5))),
        more.permutations_figure(rng.uniform(0, 1, 9), rng.uniform(0, 1, 9)),
        more.path_lengths_figure(lengths, 10.0**-lengths, np.full(blocks + 1, 1 / (blocks + 1))),
        more.heat_map_figure(depth, [0, 10, 50], np.stack([some(), some(), np.zeros(blocks)])),
    ]


@pytest.mark.parametrize("blocks", [1, 9, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 600))])
def test_every_figure_is_drawn_at_any_depth(tmp_path, blocks):
    """What the page's tests draw, 9 blocks and all figures, is only looked at here."""
    figures = example_figures(blocks)
    assert len({figure.name for figure in figures}) == len(figures)
    for figure in figures:
        assert len(figure.caption) > 60, figure.name
        if blocks in (3, 600):
            assert figure.save_png(tmp_path).stat().st_size > 5_000
        assert not figure.empty or blocks == 1


def test_without_a_single_value():
    nothing = np.full(5, np.nan)
    depth = DepthAxis(np.zeros(5, int))
    with_gaps = draw.branch_figure(depth, nothing, nothing), draw.cosine_figure(depth, nothing)
    assert all(figure.empty for figure in with_gaps)
    zero = draw.gradient_figure(depth, np.zeros(5), nothing, nothing)
    assert zero.empty
    assert "0 everywhere" in [text.get_text() for text in zero.figure.axes[0].texts]
    assert not draw.cosine_figure(depth, np.zeros(5)).empty


def test_nan_leaves_a_gap_and_what_a_log_axis_cannot_show_is_counted():
    values = np.array([1.0, np.nan, 3.0, 0.0, np.inf])
    figure = draw_depth("x", "X", "Text.", DepthAxis(np.zeros(5, int)), [Panel("size", [Line("a", values)], "log")])
    drawn = figure.figure.axes[0].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, [1, np.nan, 3, np.nan, np.nan])
    assert figure.caption == "Text. Not drawn: a (infinite at 1 of 5), a (zero at 1 of 5)."


def test_stages_are_marked_between_blocks_and_named():
    depth = DepthAxis(np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2]))
    assert (depth.starts, depth.labels) == ([0, 3, 7], ["stage 1", "stage 2", "stage 3"])
    axes = draw.cosine_figure(depth, np.zeros(10)).figure.axes[0]
    lines = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linestyle() != "-"]
    assert lines == [2.5, 6.5]
    assert [text.get_text() for text in axes.texts] == ["stage 1", "stage 2", "stage 3"]
    narrow = DepthAxis(np.repeat([0, 1, 2, 3], [3, 4, 23, 3]))
    texts = [text.get_text() for text in draw.cosine_figure(narrow, np.zeros(33)).figure.axes[0].texts]
    assert texts == ["1", "2", "3", "4", "stage"]


def test_lines_differ_in_more_than_colour():
    assert len({str(look["linestyle"]) for look in LOOKS}) == len({look["marker"] for look in LOOKS}) == len(LOOKS)


@pytest.mark.parametrize("values", [[1.0, 1.01], [1e-12, 1e9], [0.2, 0.9], [3.0, 3.0], [1e-30, 1e-29]])
def test_a_log_axis_always_has_labels(values):
    panel = Panel("size", [Line("", np.array(values))], "log")
    figure = draw_depth("x", "X", "Text.", DepthAxis(np.zeros(2, int)), [panel]).figure
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    labels = [
        label.get_text()
        for label in axes.get_yticklabels()
        if label.get_text() and low <= label.get_position()[1] <= high
    ]
    assert 2 <= len(set(labels)) <= 9
    assert len(set(labels)) == len(labels)
    assert high / low >= 4


def test_the_heat_map_puts_steps_and_blocks_in_place():
    depth = DepthAxis(np.zeros(4, int))
    norms = np.arange(1.0, 13.0).reshape(3, 4)
    (mesh,) = (c for c in more.heat_map_figure(depth, [0, 10, 50], norms).figure.axes[0].collections)
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(corners[:, 0, 1], [-5, 5, 30, 70])
    np.testing.assert_allclose(corners[0, :, 0], [-0.5, 0.5, 1.5, 2.5, 3.5])
    np.testing.assert_array_equal(mesh.get_array(), norms)


def test_parameters_are_grouped_by_block_and_kind():
    depth = DepthAxis(np.zeros(2, int))
    paths = ("stem/kernel", "a/conv1/kernel", "a/conv2/kernel", "b/conv1/kernel", "b/bias")
    figure = draw.parameters_figure(
        depth, paths, np.array([-1, 0, 0, 1, 1]), np.array([1.0, 1, 1, 2, 0]), np.array([9.0, 1, 4, 6, 1])
    )
    (line,) = [
        line for line in figure.figure.axes[0].lines if line.get_label() == "weights" or len(line.get_xdata()) == 2
    ]
    np.testing.assert_allclose(line.get_ydata(), [2.0, 3.0])  # the geometric mean of 1 and 4; the bias is still 0


def test_a_heat_map_of_one_step_has_its_number_and_readable_colours():
    figure = more.heat_map_figure(DepthAxis(np.array([0, 0, 1])), [7], np.array([[5.14, 5.15, 5.16]])).figure
    figure.canvas.draw()
    axes, bar = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["7"]
    shown = [label.get_text() for label in bar.get_yticklabels() if label.get_text()]
    assert len(shown) >= 2
    assert not [text for text in shown if "×" in text or "$" in text]


def test_no_percentage_is_above_100_or_below_0():
    figure = more.lesion_figure(DepthAxis(np.array([0, 0])), np.array([0.99, 1.0]), 1.0).figure
    figure.canvas.draw()
    values = [label.get_text().removesuffix(" %") for label in figure.axes[0].get_yticklabels()]
    assert all(0 <= float(value) <= 100 for value in values if value)
