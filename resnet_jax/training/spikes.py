"""Loss spikes: a loss far above the running median sends the run back to a good state, to continue with other batches.

The rule is a pure function of the losses, and the step to return to depends only on the current step, so a run that is
killed and resumed goes back at the same step to the same one. This follows A. Chowdhery et al., PaLM (arXiv 2204.02311,
section 5.1), who restarted some 100 steps before a spike and skipped the batches around it.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from resnet_jax.fields import AtLeast1, NotNegative, Positive, check_fields


@dataclasses.dataclass(frozen=True)
class Spikes:
    """When a loss counts as a spike, and how often a run goes back. Off without a factor.

    Raises:
        UsageError: if a value is out of range.

    >>> rule = Spikes(factor=3.0, window=5)
    >>> rule.is_spike(9.0, [1.0, 2.0, 2.5, 1.5, 2.0]), rule.is_spike(9.0, [1.0, 2.0])
    (True, False)
    """

    factor: Positive | None = None
    """A loss of more than this many times the median of the most recent ones is a spike. None: spikes are not
    detected."""
    window: AtLeast1 = 50
    """Number of losses the median is taken over. Until there are this many after the warm-up, no loss is a spike."""
    least: NotNegative = 0.0
    """Losses up to this value are never spikes, because small losses at the end of a training vary by large factors."""
    rollbacks: AtLeast1 = 3
    """How often the run goes back to its last checkpoint, to continue from there with another order of the examples.
    Later spikes are ignored."""

    def __post_init__(self) -> None:
        check_fields(self, "train.spikes.")

    def is_spike(self, loss: float, losses: Sequence[float]) -> bool:
        """Return whether a loss is a spike, given the most recent ones before it."""
        if self.factor is None or len(losses) < self.window:
            return False
        median = statistics.median(losses)
        return median > 0 and loss > self.factor * median and loss > self.least


class Spiked(Exception):
    """A loss spike: the run must go back.

    Args:
        step: the update that had this loss, from 1.
        to: the update after which the order of the examples changes; the run returns to a checkpoint of then or
            earlier.
        loss: the loss of the step.
        median: the median of the losses before.

    Attributes:
        rollbacks: all updates after which the order changes, ending with this one.
        seconds: as in the progress.
        timed_examples: as in the progress.
        elapsed: as in the progress.
    """

    def __init__(self, step: int, to: int, loss: float, median: float) -> None:
        super().__init__(f"the loss rose to {loss:.4g} at step {step}, from a median of {median:.4g}")
        self.step, self.to, self.loss, self.median = step, to, loss, median
        self.rollbacks: tuple[int, ...] = ()
        self.seconds = self.timed_examples = self.elapsed = 0.0
