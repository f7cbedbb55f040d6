"""The figure of an ablation: what its bands are, that its labels do not overlap, that every case can be drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st

from resnet_jax.report.ablation_plot import MAX_TOGETHER, CellCurves, plot_ablation, spread_labels


def curve(*values):
    return [(float(epoch), value) for epoch, value in enumerate(values, 1)]


def test_a_band_is_mean_and_sample_deviation_of_the_seeds_that_did_not_diverge():
    cell = CellCurves("x", "y", {0: curve(0.1, 0.4, 0.6), 1: curve(0.3, 0.5), 2: curve(0.9)}, {2: 1.5, 3: 0.2})
    epochs, mean, spread = cell.band()
    np.testing.assert_array_equal(epochs, [1.0, 2.0], "epochs that not all seeds have reached are left out")
    np.testing.assert_allclose(mean, [0.2, 0.45])
    np.testing.assert_allclose(spread, np.std([[0.1, 0.4], [0.3, 0.5]], axis=0, ddof=1))
    assert (cell.seeds, cell.note) == (4, "x\n2 of 4 diverged")
    single = CellCurves("x", "y", {0: curve(0.1, 0.4)}, {})
    np.testing.assert_array_equal(single.band()[2], [0.0, 0.0])
    assert [len(part) for part in CellCurves("x", "y", {0: curve(0.1)}, {0: 2.0}).band()] == [0, 0, 0]


labels = st.lists(st.tuples(st.floats(-10, 10), st.floats(0.1, 3)), min_size=1, max_size=12)


@given(labels)
def test_labels_keep_their_order_and_do_not_overlap(wanted):
    centres, heights = zip(*wanted, strict=True)
    places = spread_labels(centres, heights)
    order = sorted(range(len(wanted)), key=lambda index: centres[index])
    for below, above in itertools.pairwise(order):
        assert places[above] - places[below] >= (heights[above] + heights[below]) / 2 - 1e-6


def test_labels_with_room_stay_where_they_are():
    assert spread_labels([3.0, 1.0, 2.0], [0.9, 0.9, 0.9]) == pytest.approx([3.0, 1.0, 2.0])


@pytest.mark.parametrize("count", [0, 1, 3, MAX_TOGETHER, MAX_TOGETHER + 2])
def test_any_number_of_cells_is_drawn(tmp_path, count):
    from matplotlib.image import imread

    cells = [
        CellCurves(f"cell {index}", "validation accuracy", {0: curve(0.2, 0.5), 1: curve(0.3, 0.6)}, {})
        for index in range(count)
    ]
    if count > 1:
        cells[0] = CellCurves("one diverged", "validation accuracy", {0: curve(0.2, 0.5), 1: curve(0.3)}, {1: 1.4})
        cells[1] = CellCurves("all diverged at once", "validation accuracy", {}, {0: 0.1, 1: 0.2})
    plot_ablation(cells, tmp_path / "curves.png", title="Ablation")
    image = imread(tmp_path / "curves.png")
    assert image.shape[0] > 200
    assert image.min() < 0.5
