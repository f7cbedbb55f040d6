"""Views may fail: one line, and what they show is not lost."""

from __future__ import annotations

import pytest

from resnet_jax.report.canvas import save_figure
from resnet_jax.report.views import View, attempt


def fail(*_):
    raise ValueError("$ alone\nand a long explanation")


def test_a_picture_that_fails_is_one_line_that_names_it_and_the_error():
    lines = []
    assert not attempt("curves.png", fail, lines.append)
    assert lines == ["warning: curves.png was not drawn: ValueError: $ alone"]
    assert attempt("curves.png", lambda: None, lines.append)
    assert not attempt("curves.png", fail, fail), "not even the line that says so may raise"


def test_ctrl_c_is_no_error_of_a_picture():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt("curves.png", stop, print)


def test_an_observer_that_fails_is_left_alone_from_then_on():
    class Board:
        calls = 0

        def on_step(self, row):
            Board.calls += 1
            fail()

        def on_epoch(self, row):
            Board.calls += 1

    lines = []
    view = View("TensorBoard", Board, lines.append)
    for _ in range(3):
        view.on_step({})
        view.on_epoch({})
    view.close()
    assert Board.calls == 1
    assert lines == ["warning: TensorBoard goes no further: ValueError: $ alone. Training continues"]
    View("TensorBoard", fail, lines.append).on_step({})
    assert len(lines) == 2


def test_a_figure_is_written_whole_or_not_at_all(tmp_path):
    class Figure:
        def findobj(self, _kind):
            return []

        def savefig(self, path, format):
            path.write_text("half")
            fail()

    path = tmp_path / "curves.png"
    path.write_text("old")
    with pytest.raises(ValueError, match="alone"):
        save_figure(Figure(), path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]
