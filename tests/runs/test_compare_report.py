"""The page of a comparison: whole in itself, every configuration in every figure."""

from __future__ import annotations

import re

import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.report.compare_figures import Curves, draw_curves
from resnet_jax.runs.compare import compare_runs
from resnet_jax.runs.compare_report import page, write_comparison
from tests.composed_runs import compose, tiny
from tests.report.test_depth_page import read


def test_it_is_written_whole(tmp_path):
    runs = [
        compose(tmp_path / f"<{rate}>{seed}", tiny(seed, rate), (0.5, 0.6 + rate), 0.6 + rate + 0.01 * seed * rate)
        for rate in (0.1, 0.2)
        for seed in (0, 1)
    ]
    path = write_comparison(compare_runs(runs), tmp_path / "out")
    text = path.read_text()
    assert {entry.name for entry in path.parent.iterdir()} == {
        "report.html", "training-loss.png", "validation.png", "runs.csv", "curves.csv",
    }  # fmt: skip
    assert len(read(text).figures) == text.count("<svg") == 2
    assert not re.search(r'(?:src|href)="(?!#)', text)  # it needs no other file
    assert "&lt;0.1&gt;0" in text
    assert "<details open>" in text
    assert "learning_rate 0.2 is 10.05 points above learning_rate 0.1" in text
    with pytest.raises(UsageError, match="is a run directory"):
        write_comparison(compare_runs(runs), runs[0])


def test_many_configurations_get_several_figures(tmp_path):
    runs = [compose(tmp_path / str(n), tiny(0, 0.1 * (n + 1)), (0.5, 0.6), 0.5) for n in range(8)]
    figures = page(compare_runs(runs)).figures
    assert [figure.name for figure in figures] == ["training-loss-1", "validation-1", "training-loss-2", "validation-2"]
    assert [len(figure.figure.axes[0].lines) for figure in figures] == [6, 6, 2, 2]
    with pytest.raises(ValueError, match="at most 6"):
        draw_curves("x", "x", "", "x", [Curves(str(n), []) for n in range(7)])


def test_a_band_ends_where_a_seed_does():
    long, short = (np.array([10, 20, 30]), np.array([1.0, 2.0, 3.0])), (np.array([10, 20]), np.array([3.0, 4.0]))
    steps, mean, spread = Curves("", [long, short]).band()
    assert steps.tolist() == [10, 20]
    assert mean.tolist() == [2.0, 3.0]
    np.testing.assert_allclose(spread, np.sqrt(2.0))


def test_seeds_with_other_steps_are_interpolated():
    steps, mean, _ = Curves("", [(np.array([0, 10]), np.array([0.0, 1.0])), (np.array([0, 5, 10]), np.zeros(3))]).band()
    assert steps.tolist() == [0, 5, 10]
    assert mean.tolist() == [0.0, 0.25, 0.5]


def test_nothing_to_draw_is_said(tmp_path):
    found = compare_runs([compose(tmp_path / "began", tiny())])
    assert page(found).figures == []
    assert "Left out, having no values to draw" in write_comparison(found, tmp_path / "out").read_text()
