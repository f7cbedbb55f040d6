"""Whether a run has learned anything: its accuracy compared with always predicting the most frequent class.

A network is **at chance** on n images if it classifies no more of them correctly than p n + 3 sqrt(n p (1 - p)), where
p is the share of their most frequent class. This is the expected count when always predicting that class plus three
standard errors, but at most half of the way from there to all images (for 60 images of which 58 are of one class, three
standard errors exceed 60). A network that gives every image the same answer is always at chance; one that classifies
every image correctly never is.

A run is **stuck** if it ends at chance both on its test images and on those of its last training epoch. A run that
overfits is not stuck: it has learned its training images. A run of less than one epoch or fewer than 50 updates is too
short to judge, and a data set with one class has nothing to learn; the answer is then None, as for tasks without an
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
#: Number of consecutive epochs at chance before a run in progress is reported.
PATIENCE = 3

ADVICE = (
    "Look at: the learning rate (lower it, or optim.schedule.warmup '5 epochs'), clipping (optim.clip_norm 1), the "
    "norm and the residual rule (resnet-jax depth check NETWORK says whether signals get through)"
)


@dataclasses.dataclass(frozen=True)
class Chance:
    """What chance achieves on a set of images.

    Attributes:
        examples: number of images in the set.
        majority: share of its most frequent class, in [0, 1].
    """

    examples: int
    majority: float

    @classmethod
    def of(cls, labels: np.ndarray, examples: int | None = None) -> Chance:
        """Return the chance level for images with these labels; ``examples`` is their number if not all are counted.

        >>> Chance.of(np.array([0, 1, 1, 2]))
        Chance(examples=4, majority=0.5)
        """
        counts = np.unique(np.asarray(labels), return_counts=True)[1]
        return cls(len(labels) if examples is None else examples, float(counts.max() / counts.sum()))

    @property
    def limit(self) -> float:
        """Return the accuracy that chance does not exceed."""
        p = self.majority
        return p + min(DEVIATIONS * math.sqrt(p * (1.0 - p) / self.examples), (1.0 - p) / 2)

    def explains(self, accuracy: float) -> bool:
        """Return whether an accuracy is no better than chance; False if it is not finite.

        >>> Chance(1000, 0.1).explains(0.12), Chance(1000, 0.1).explains(0.13)
        (True, False)
        """
        return math.isfinite(accuracy) and accuracy <= self.limit + 1e-12  # fractions of whole numbers, rounded


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a run is stuck.

    Attributes:
        stuck: None if that cannot be determined.
        reason: why it is stuck, or why that cannot be determined; None for a run that has learned.
    """

    stuck: bool | None
    reason: str | None


def has_chance(task: Task) -> bool:
    """Return whether a task can be compared with chance: its headline metric is an accuracy over classes.

    The chance level of mean average precision or R2 is known as well (the share of positives; 0), but not its spread,
    so no statement is made about those.
    """
    return task.headline == "accuracy"


def judge(
    *, updates: int, steps_per_epoch: int, tested: float | None, test: Chance, trained: float | None, train: Chance
) -> Verdict:
    """Judge a run at its end.

    Args:
        updates: number of updates made by the run.
        steps_per_epoch: updates per epoch.
        tested: accuracy on the test images; None for a task without accuracy.
        test: chance on the test images.
        trained: accuracy in the last training epoch; None if unknown.
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
    """An observer that reports once, during training, that a run has been at chance for some epochs.

    Args:
        train: chance on the training images of an epoch.
        val: chance on the validation images; None without.
        say: called with the line.
        after: number of warm-up updates; epochs that end within them do not count, as the rate is not at its full value
            yet.
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
