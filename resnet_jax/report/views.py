"""Views of a result: pictures, a progress bar, TensorBoard. They may fail, and then only warn: none takes a result
along.

What is a result (summary.json, metrics.jsonl, tables, arrays, checkpoints) is written before its views, and stops
loudly where it cannot be written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_jax.training.loop import Observer

Warn = Callable[[str], None]


def attempt(what: str, draw: Callable[[], Any], warn: Warn) -> bool:
    """Call ``draw()``; whatever error it raises becomes one line of warning. Return whether it was drawn.

    Args:
        what: what is drawn, as the line names it.
        draw: makes the view.
        warn: is given the line.

    >>> attempt("curves.png", lambda: 1 / 0, print)
    warning: curves.png was not drawn: ZeroDivisionError: division by zero
    False
    """
    try:
        draw()
    except Exception as error:
        _tell(warn, f"warning: {what} was not drawn: {one_line(error)}")
        return False
    return True


def one_line(error: BaseException) -> str:
    r"""Return an error as one line: its kind, and the first line of what it says if it says anything.

    >>> one_line(AssertionError()), one_line(ValueError("$ alone\nin a formula"))
    ('AssertionError', 'ValueError: $ alone')
    """
    lines = str(error).strip().splitlines()
    return type(error).__name__ + (f": {lines[0]}" if lines else "")


class View:
    """An observer that may fail: its first error is one line of warning, and from then on it is left alone.

    Args:
        what: what it is, as the line names it.
        make: makes the observer; may fail too.
        warn: is given the line.
    """

    def __init__(self, what: str, make: Callable[[], Observer], warn: Warn) -> None:
        self._what, self._warn, self._observer = what, warn, None
        self._try(lambda: setattr(self, "_observer", make()))

    def on_step(self, row: dict[str, float]) -> None:
        """Tell it."""
        self._try(lambda: self._observer and self._observer.on_step(row))

    def on_epoch(self, row: dict[str, float]) -> None:
        """Tell it."""
        self._try(lambda: self._observer and self._observer.on_epoch(row))

    def close(self) -> None:
        """Close it if it can be closed."""
        self._try(lambda: getattr(self._observer, "close", lambda: None)())

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            self._observer = None
            _tell(self._warn, f"warning: {self._what} goes no further: {one_line(error)}. Training goes on")


def _tell(warn: Warn, line: str) -> None:
    with contextlib.suppress(Exception):  # a terminal that has gone is a view as well
        warn(line)
