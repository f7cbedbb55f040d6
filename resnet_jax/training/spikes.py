"""Loss spikes: a loss far above the running median sends the run back to where it was good, with other batches on.

The rule is a pure function of the losses, and where it goes back to of the step, so that a run that is killed and
resumed goes back at the same step to the same one. As in A. Chowdhery et al., PaLM (arXiv 2204.02311, section 5.1), who
restarted some 100 steps before a spike and skipped the batches around it.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from resnet_jax.fields import AtLeast1, NotNegative, Positive, check_fields


@dataclasses.dataclass(frozen=True)
class Spikes:
    """When a loss is a spike, and how often a run goes back. Off without a factor.

    Raises:
        UsageError: a value out of range.

    >>> rule = Spikes(factor=3.0, window=5)
    >>> rule.is_spike(9.0, [1.0, 2.0, 2.5, 1.5, 2.0]), rule.is_spike(9.0, [1.0, 2.0])
    (True, False)
    """

    factor: Positive | None = None
    """A loss of more than this many times the median of the last ones is a spike; None: spikes are not looked for."""
    window: AtLeast1 = 50
    """How many losses the median is of. Before there are as many after the warm-up, no loss is a spike."""
    least: NotNegative = 0.0
    """Losses up to this are none, whatever the median: at the end of a training small ones vary by large factors."""
    rollbacks: AtLeast1 = 3
    """How often the run goes back to its last checkpoint, to go on from there in another order of the examples. Spikes
    after that are left alone."""

    def __post_init__(self) -> None:
        check_fields(self, "train.spikes.")

    def is_spike(self, loss: float, losses: Sequence[float]) -> bool:
        """Return whether a loss is one after these, the last ones."""
        if self.factor is None or len(losses) < self.window:
            return False
        median = statistics.median(losses)
        return median > 0 and loss > self.factor * median and loss > self.least


class Spiked(Exception):
    """A loss spike: the run has to go back.

    Args:
        step: the update whose loss it was, from 1.
        to: the update after which the order of the examples changes; a checkpoint of then or before is gone back to.
        loss: of the step.
        median: of the losses before.

    Attributes:
        rollbacks: all updates after which the order changes, this one the last.
        seconds: as in the progress.
        timed_examples: likewise.
        elapsed: likewise.
    """

    def __init__(self, step: int, to: int, loss: float, median: float) -> None:
        super().__init__(f"the loss rose to {loss:.4g} at step {step}, from a median of {median:.4g}")
        self.step, self.to, self.loss, self.median = step, to, loss, median
        self.rollbacks: tuple[int, ...] = ()
        self.seconds = self.timed_examples = self.elapsed = 0.0
