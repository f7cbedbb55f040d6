"""Where a run stands, apart from its arrays: plain numbers that travel with the checkpoint as JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from resnet_jax.training.early_stopping import EarlyStoppingState


@dataclasses.dataclass(frozen=True)
class EpochSums:
    """Sums over the steps of the epoch under way.

    Attributes:
        loss: sum of the steps' mean losses times their examples.
        correct: examples classified correctly when they were trained on.
        examples: examples trained on.
    """

    loss: float = 0.0
    correct: float = 0.0
    examples: float = 0.0

    def add(self, metrics: dict[str, float]) -> EpochSums:
        """Add one step's metrics."""
        count = metrics["count"]
        return EpochSums(self.loss + metrics["loss"] * count, self.correct + metrics["correct"], self.examples + count)

    def means(self) -> dict[str, float]:
        """Return the mean ``loss`` and ``accuracy``; NaN of nothing."""
        if self.examples == 0:
            return {"loss": math.nan, "accuracy": math.nan}
        return {"loss": self.loss / self.examples, "accuracy": self.correct / self.examples}


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the loop knows besides the state. A resumed run goes on from it as if it had not stopped.

    Attributes:
        epoch_sums: the epoch under way.
        watch: the validation results so far: best, when, and how long ago.
        seconds: time spent on training steps, compilation and evaluation left out, over all sessions.
        timed_examples: examples those seconds were spent on.
        finished: why the run is over (``"steps"`` or ``"early stopping"``), or None.
        skipped: steps whose gradients overflowed under the loss scale, and which moved nothing.
    """

    epoch_sums: EpochSums = dataclasses.field(default_factory=EpochSums)
    watch: EarlyStoppingState = dataclasses.field(default_factory=EarlyStoppingState)
    seconds: float = 0.0
    timed_examples: float = 0.0
    finished: str | None = None
    skipped: int = 0

    @property
    def images_per_second(self) -> float | None:
        """Training throughput, or None before anything was timed."""
        return self.timed_examples / self.seconds if self.seconds > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return nested dictionaries of plain numbers."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Progress:
        """Invert :meth:`to_json`."""
        return cls(
            **{
                **data,
                "epoch_sums": EpochSums(**data["epoch_sums"]),
                "watch": EarlyStoppingState(**data["watch"]),
            }
        )
