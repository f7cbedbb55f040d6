"""Stop when the watched metric has not improved for a while (Prechelt, 1998: "early stopping, but when?").

A rule (`EarlyStopping`, configuration) and a state (`EarlyStoppingState`, plain numbers) with a pure update,
so that the state can live in a checkpoint and a resumed run stops where the uninterrupted one would.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from resnet_jax.errors import UsageError, unknown

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class EarlyStoppingState:
    """What early stopping remembers; only JSON values.

    Attributes:
        evaluations: how many values were seen.
        best: the best finite value so far; None before the first.
        best_at: 0-based index of the evaluation that gave ``best``; None before the first.
        wait: evaluations since ``best`` (since the start if there is none).
        should_stop: whether ``wait`` has reached the patience.
    """

    evaluations: int = 0
    best: float | None = None
    best_at: int | None = None
    wait: int = 0
    should_stop: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary of JSON values; ``EarlyStoppingState(**d)`` restores the state."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after ``patience`` evaluations in a row without improvement; None never does.

    Raises:
        UsageError: ``patience`` < 1, ``min_delta`` negative or not finite, or an unknown ``mode``.

    >>> rule = EarlyStopping(patience=2)
    >>> state = rule.init()
    >>> for accuracy in (0.5, 0.7, 0.6, float("nan")):
    ...     state = rule.update(state, accuracy)
    >>> state.best, state.best_at, state.should_stop
    (0.7, 1, True)
    """

    patience: int | None = None
    """Validations in a row without improvement after which the run stops; None: it never does."""
    min_delta: float = 0.0
    """A value improves only if it beats the best one by more than this (in the metric's unit)."""
    mode: Mode | None = None
    """Whether larger (max: accuracy) or smaller (min: loss) is better; None: as the task's headline metric has it."""

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise UsageError(f"patience of early stopping must be at least 1 evaluation, got {self.patience}")
        if not (math.isfinite(self.min_delta) and self.min_delta >= 0):
            raise UsageError(f"min_delta of early stopping must be finite and not negative, got {self.min_delta}")
        if self.mode is not None and self.mode not in get_args(Mode):
            raise unknown("mode of early stopping", self.mode, get_args(Mode))

    def init(self) -> EarlyStoppingState:
        """Return the state before the first evaluation."""
        return EarlyStoppingState()

    def update(self, state: EarlyStoppingState, value: float) -> EarlyStoppingState:
        """Take one evaluation into account; ``state`` is left as it was.

        A value that is NaN or infinite never counts as an improvement; without a mode, larger is better.
        """
        value, seen = float(value), state.evaluations + 1
        if self._improves(value, state.best):
            return EarlyStoppingState(evaluations=seen, best=value, best_at=state.evaluations)
        wait = state.wait + 1
        stop = self.patience is not None and wait >= self.patience
        return dataclasses.replace(state, evaluations=seen, wait=wait, should_stop=stop)

    def _improves(self, value: float, best: float | None) -> bool:
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        gain = best - value if self.mode == "min" else value - best
        return gain > self.min_delta
