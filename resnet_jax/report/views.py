"""Views of a result: pictures, a progress bar, TensorBoard. They may fail, and then only warn: none takes a result
along.

What is a result (summary.json, metrics.jsonl, tables, arrays, checkpoints) is written before its views, and stops
loudly where it cannot be written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from resnet_jax.training.observers import Observer, Row, RunFacts, positions, tell

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


class View(Observer):
    """An observer that may fail: its first error is one line of warning, and from then on it is left alone.

    Args:
        what: what it is, as the line names it.
        make: makes the observer; may fail too.
        warn: is given the line.
    """

    def __init__(self, what: str, make: Callable[[], Any], warn: Warn) -> None:
        self._what, self._warn, self._observers = what, warn, []
        self._try(lambda: self._observers.append(make()))

    def on_start(self, facts: RunFacts) -> None:
        """Tell it."""
        self._tell("on_start", facts)

    def on_rollback(self, facts: RunFacts) -> None:
        """Tell it."""
        self._tell("on_rollback", facts)

    def on_step(self, row: Row) -> None:
        """Tell it."""
        self._tell("on_step", row)

    def on_epoch(self, row: Row) -> None:
        """Tell it."""
        self._tell("on_epoch", row)

    def on_validation(self, row: Row) -> None:
        """Tell it."""
        self._tell("on_validation", row)

    def on_blocks(self, step: int, norms: np.ndarray, member: int = 0) -> None:
        """Tell it."""
        self._tell("on_blocks", step, norms, member)

    def on_task_gradients(self, step: int, cosines: np.ndarray, member: int = 0) -> None:
        """Tell it."""
        self._tell("on_task_gradients", step, cosines, member)

    def on_reject(self, row: Row) -> None:
        """Tell it."""
        self._tell("on_reject", row)

    def on_divergence(self, row: Row) -> None:
        """Tell it."""
        self._tell("on_divergence", row)

    def on_members(self, rows: Mapping[int, Row]) -> None:
        """Tell it."""
        self._tell("on_members", rows)

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Tell it."""
        self._tell("on_end", summary)

    def position(self) -> Mapping[str, Any]:
        """Ask it."""
        found: list[dict[str, Any]] = []
        self._try(lambda: found.append(positions(self._observers)))
        return found[0] if found else {}

    def close(self) -> None:
        """Close it if it can be closed."""
        self._tell("close")

    def _tell(self, what: str, *arguments: Any) -> None:
        self._try(lambda: tell(self._observers, what, *arguments))

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            self._observers = []
            _tell(self._warn, f"warning: {self._what} goes no further: {one_line(error)}. Training continues")


def _tell(warn: Warn, line: str) -> None:
    with contextlib.suppress(Exception):  # a terminal that has gone is a view as well
        warn(line)
