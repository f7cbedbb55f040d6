"""The figures of a search, of trials that ended in every way, with options of every kind."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resnet_jax.search import figures
from resnet_jax.search.space import Dimension
from resnet_jax.search.study import Trial

DIMENSIONS = (
    Dimension("optim.learning_rate", "log", (0.001, 1.0)),
    Dimension("optim.momentum", "range", (0.5, 0.98)),
    Dimension("data.repeats", "int", (1, 4)),
    Dimension("model.norm", "choice", ("batch", "group", None)),
    Dimension("model.widths", "choice", ([8, 16, 32], [16, 32, 64])),
)


def some_trials(count=40):
    rng, trials = np.random.default_rng(0), []
    for number in range(count):
        rate = float(10 ** rng.uniform(-3, 0))
        values = {
            "optim.learning_rate": rate,
            "optim.momentum": float(rng.uniform(0.5, 0.98)),
            "data.repeats": int(rng.integers(1, 5)),
            "model.norm": ("batch", "group", None)[int(rng.integers(3))],
            "model.widths": ([8, 16, 32], [16, 32, 64])[int(rng.integers(2))],
        }
        score = 0.98 - 0.1 * abs(math.log10(rate) + 1) + 0.01 * float(rng.normal())
        if number % 9 == 4:
            trials.append(Trial(number, values, 0, "diverged", {}, 0, "diverged at update 7"))
        elif number % 3:
            trials.append(Trial(number, values, 0, "stopped", {333_333: score - 0.05}, 95, "not among the best 1/3"))
        else:
            trials.append(Trial(number, values, 0, "complete", {333_333: score - 0.05, 1_000_000: score}, 285))
    trials.append(Trial(count, values, 0, "failed", {}, 0, "does not go together"))
    trials.append(Trial(count + 1, values, 0, "running", {333_333: 0.9}, 95))
    return trials


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to be looked into."""
    found, save = [], figures.save_figure
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: (found.append(figure), save(figure, path)))
    return found


def test_parallel_coordinates_have_a_line_a_trial_that_could_be_built(tmp_path, drawn):
    trials = some_trials()
    best = max((one for one in trials if one.state == "complete"), key=lambda one: one.value or 0)
    figures.draw_parallel(trials, DIMENSIONS, "accuracy", best, tmp_path / "x.png", "Search of digits")
    [axes] = drawn[0].axes
    lines = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert len(lines) == len(trials) - 1
    ends = [len(line.get_xdata()) for line in lines]
    assert ends.count(len(DIMENSIONS)) == sum(one.state == "diverged" for one in trials)  # no metric
    [thick] = [line for line in lines if line.get_linewidth() > 2]
    place = (math.log10(best.values["optim.learning_rate"]) + 3) / 3
    assert thick.get_ydata()[0] == pytest.approx(place)
    assert all(-0.04 <= y <= 1.04 for line in lines for y in line.get_ydata())
    said = {text.get_text() for text in axes.texts}
    assert {"0.001", "1", "batch", "group", "none", "[8, 16, 32]"} <= said
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_history_rises_with_the_best_of_the_whole_length(tmp_path, drawn):
    trials = some_trials()
    figures.draw_history(trials, "accuracy", "max", tmp_path / "x.png", "Search of digits")
    [axes] = drawn[0].axes
    [best] = [line for line in axes.lines if line.get_label() == "best so far"]
    heights = list(best.get_ydata())
    assert heights == sorted(heights)
    assert heights[-1] == pytest.approx(100 * max(one.value for one in trials if one.state == "complete"))
    figures.draw_history(trials, "loss", "min", tmp_path / "x.png", "Search of digits")
    [best] = [line for line in drawn[1].axes[0].lines if line.get_label() == "best so far"]
    assert list(best.get_ydata()) == sorted(best.get_ydata(), reverse=True)


def test_importances_are_bars_the_largest_on_top(tmp_path, drawn):
    found = {"optim.momentum": 0.2, "optim.learning_rate": 0.7, "model.norm": 0.1}
    figures.draw_importance(found, 1 / 3, "accuracy", tmp_path / "x.png", "Search of digits")
    [axes] = drawn[0].axes
    assert [text.get_text() for text in axes.get_yticklabels()][-1] == "optim.learning_rate"
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([10, 20, 70])
    assert "33% of the length" in axes.get_xlabel()


def test_nothing_is_drawn_of_nothing(tmp_path):
    trials = [one for one in some_trials() if one.state in ("diverged", "failed")]
    with pytest.raises(ValueError, match="no trial was measured"):
        figures.draw_parallel(trials, DIMENSIONS, "accuracy", None, tmp_path / "x.png", "x")
    with pytest.raises(ValueError, match="no trial was measured"):
        figures.draw_history(trials, "accuracy", "max", tmp_path / "x.png", "x")


def test_trials_that_were_stopped_far_below_do_not_squeeze_the_others(tmp_path, drawn):
    trials = [one for one in some_trials() if one.state in ("complete", "stopped")]
    trials[1] = Trial(99, trials[1].values, 0, "stopped", {111_111: 0.1}, 31)
    figures.draw_parallel(trials, DIMENSIONS, "accuracy", None, tmp_path / "x.png", "x")
    [axes] = drawn[0].axes
    lines = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert min(line.get_ydata()[-1] for line in lines) == 0
    assert any(text.get_text().startswith("≤") for text in axes.texts)
