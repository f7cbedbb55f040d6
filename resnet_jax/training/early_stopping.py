"""Stop when the monitored metric has not improved for a while (Prechelt, 1998: "early stopping, but when?").

A rule (`EarlyStopping`, configuration) and a state (`EarlyStoppingState`, plain numbers) with a pure update, so that
the state can be checkpointed and a resumed run stops where the uninterrupted one would.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from resnet_jax.fields import AtLeast1, NotNegative, check_fields

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class EarlyStoppingState:
    """The state of early stopping; only JSON values.

    Attributes:
        evaluations: number of values seen.
        best: best finite value so far; None before the first.
        best_at: 0-based index of the evaluation that gave ``best``; None before the first.
        wait: number of evaluations since ``best`` (since the start if there is none).
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
    """Stop after ``patience`` consecutive evaluations without improvement; None: never.

    Raises:
        UsageError: if a value is out of range.

    >>> rule = EarlyStopping(patience=2)
    >>> state = rule.init()
    >>> for accuracy in (0.5, 0.7, 0.6, float("nan")):
    ...     state = rule.update(state, accuracy)
    >>> state.best, state.best_at, state.should_stop
    (0.7, 1, True)
    """

    patience: AtLeast1 | None = None
    """Number of consecutive validations without improvement after which the run stops. None: it never stops early."""
    min_delta: NotNegative = 0.0
    """The minimum change, in the metric's unit, that counts as an improvement over the best value."""
    mode: Mode | None = None
    """Whether larger (max: accuracy) or smaller (min: loss) is better. None: as defined by the task's headline
    metric."""

    def __post_init__(self) -> None:
        check_fields(self, "train.early_stopping.")

    def init(self) -> EarlyStoppingState:
        """Return the state before the first evaluation."""
        return EarlyStoppingState()

    def update(self, state: EarlyStoppingState, value: float) -> EarlyStoppingState:
        """Return the state after one more evaluation; ``state`` is not modified.

        NaN and infinite values never count as an improvement. Without a mode, larger is better.
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
