"""Whether a run has learned anything: its accuracy against that of naming the most frequent class every time.

A network is **at chance** on n images if it names no more of them than p n + 3 sqrt(n p (1 - p)), where p is the share
of their most frequent class: what always naming that class gets right, and three standard errors of it, but at most
half of what is left to all of them (of 60 images of which 58 are of one class, three standard errors pass 60). A
network that gives every image the same answer is always at chance, one that names every image rightly never.

A run is **stuck** if it ends at chance on the images that test it and on those of its last epoch of training. One that
overfits is not: it has learned its training images. A run of less than one epoch or of fewer than 50 updates is too
short to say, and a set of one class has nothing to learn; then the answer is None, as it is of tasks without an
accuracy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from resnet_jax.tasks.task import Task

DEVIATIONS = 3.0
MIN_UPDATES = 50
#: Epochs at chance, one after the other, before a run that still trains is said to be.
PATIENCE = 3

ADVICE = (
    "Look at: the learning rate (lower it, or optim.schedule.warmup '5 epochs'), clipping (optim.clip_norm 1), the "
    "norm and the residual rule (resnet-jax depth check NETWORK says whether signals get through)"
)


@dataclasses.dataclass(frozen=True)
class Chance:
    """What chance gets right of a set of images.

    Attributes:
        examples: images of it.
        majority: share of its most frequent class, in [0, 1].
    """

    examples: int
    majority: float

    @classmethod
    def of(cls, labels: np.ndarray, examples: int | None = None) -> Chance:
        """Return that of images with these labels; ``examples`` of them if not all are counted.

        >>> Chance.of(np.array([0, 1, 1, 2]))
        Chance(examples=4, majority=0.5)
        """
        counts = np.unique(np.asarray(labels), return_counts=True)[1]
        return cls(len(labels) if examples is None else examples, float(counts.max() / counts.sum()))

    @property
    def limit(self) -> float:
        """Return the accuracy that chance does not pass."""
        p = self.majority
        return p + min(DEVIATIONS * math.sqrt(p * (1.0 - p) / self.examples), (1.0 - p) / 2)

    def explains(self, accuracy: float) -> bool:
        """Return whether an accuracy is no better than chance; one that is not finite is not.

        >>> Chance(1000, 0.1).explains(0.12), Chance(1000, 0.1).explains(0.13)
        (True, False)
        """
        return math.isfinite(accuracy) and accuracy <= self.limit + 1e-12  # fractions of whole numbers, rounded


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a run is stuck.

    Attributes:
        stuck: None if that cannot be said.
        reason: why it is, or why it cannot be said; None for a run that has learned.
    """

    stuck: bool | None
    reason: str | None


def has_chance(task: Task) -> bool:
    """Return whether a task can be compared with chance: its headline is an accuracy over classes.

    What chance gets of a mean average precision or an R2 is known as well (the share of positives; 0), but not how far
    it scatters from there, so of those nothing is said.
    """
    return task.headline == "accuracy"


def judge(
    *, updates: int, steps_per_epoch: int, tested: float | None, test: Chance, trained: float | None, train: Chance
) -> Verdict:
    """Judge a run at its end.

    Args:
        updates: made by the run.
        steps_per_epoch: updates of an epoch.
        tested: accuracy on the test images; None of a task without.
        test: chance on them.
        trained: accuracy in the last epoch of training; None if it is not known.
        train: chance on the training images of an epoch.
    """
    if tested is None:
        return Verdict(None, "only an accuracy is compared with chance, and this task has none")
    if max(test.majority, train.majority) == 1.0:
        return Verdict(None, "all images are of one class")
    if updates < MIN_UPDATES or updates < steps_per_epoch:
        return Verdict(None, f"{updates:,} updates are too few to say whether it learns")
    if trained is None or not (test.explains(tested) and train.explains(trained)):
        return Verdict(None if trained is None and test.explains(tested) else False, None)
    return Verdict(
        True,
        f"after {updates:,} updates it does no better than chance: test accuracy {tested:.2%} where always naming the "
        f"most frequent class gets {test.majority:.2%}, and {trained:.2%} where that gets {train.majority:.2%} in the "
        "last epoch of training",
    )


class ChanceWatch:
    """An observer that says once, while a run trains, that it has been at chance for some epochs.

    Args:
        train: chance on the training images of an epoch.
        val: chance on the validation images; None without.
        say: is given the line.
        after: updates of the warm-up; what ends in it is not counted, as the rate has not been there yet.
    """

    def __init__(self, train: Chance, val: Chance | None, say: Callable[[str], None], *, after: int = 0) -> None:
        self._train, self._val, self._say, self._after = train, val, say, after
        self._epochs, self._said = 0, False

    def on_step(self, row: dict[str, float]) -> None:
        """Do nothing."""

    def on_epoch(self, row: dict[str, float]) -> None:
        """Count the epoch if it was at chance."""
        low = self._train.explains(row["accuracy"]) and self._train.majority < 1.0
        if low and self._val is not None and "val_accuracy" in row:
            low = self._val.explains(row["val_accuracy"])
        self._epochs = self._epochs + 1 if low and row["step"] > self._after else 0
        if self._epochs >= PATIENCE and row["step"] >= MIN_UPDATES and not self._said:
            self._said = True
            self._say(
                f"No better than chance for {self._epochs} epochs: accuracy {row['accuracy']:.2%}, and always naming "
                f"the most frequent class gets {self._train.majority:.2%}. It may be stuck. {ADVICE}."
            )
