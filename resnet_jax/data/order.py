"""Which examples are in which training batch: a pure function of the seed and the step.

Every row of a batch has a position in the records and a pass: how often that example was drawn before. The random draws
of transforms depend on (seed, pass, position), so an example that is drawn again gets new random draws, whether in the
next epoch, because its class is rare, or because images are repeated in a batch.

An epoch is N // batch size updates, however the examples are drawn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np

from resnet_jax.data.rng import CLASS_EXAMPLES, CLASS_ORDER, SHUFFLE, permutation, salted
from resnet_jax.errors import DataError, UsageError
from resnet_jax.fields import AtLeast1, check_fields

Balance = Literal["none", "classes"]

#: A step -> positions of its examples and the pass of each, int64 (B,).
Draw = Callable[[int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Sampling:
    """How training examples are drawn.

    Attributes:
        balance: ``none``: every example once per pass. ``classes``: all classes equally often, however many examples
            they have; within each class, every example once before any is repeated.
        repeats: how often an image is in a batch, each time with new random transforms (M. Berman et al., MultiGrain,
            arXiv 1902.05509; E. Hoffer et al., Augment Your Batch, CVPR 2020). A batch of B contains B / repeats
            images, and an epoch, which keeps its number of updates, shows 1 / repeats of them.

    Raises:
        UsageError: for an unknown balance, or fewer than one repeat.
    """

    balance: Balance = "none"
    repeats: AtLeast1 = 1

    def __post_init__(self) -> None:
        check_fields(self, "data.")


SHUFFLED = Sampling()


class Order:
    """The examples of every training step.

    Args:
        labels: labels of the records, (N,); used only for balancing.
        batch_size: examples per global batch, B.
        seed: selects the order.
        sampling: how they are drawn.
        salt: selects another order for the same seed; 0 for the first.

    Raises:
        UsageError: for a batch that the examples cannot fill, or that the repeats do not divide.
        DataError: if classes are to be balanced and the labels are not classes.

    >>> order = Order(np.arange(10) % 2, 4, seed=0)
    >>> order.steps_per_epoch, [passes.tolist() for _, passes in map(order.at, range(3))]
    (2, [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    >>> balanced = Order(np.array([0, 0, 0, 0, 0, 0, 0, 1]), 4, seed=0, sampling=Sampling("classes"))
    >>> positions, passes = balanced.at(0)
    >>> (positions == 7).sum().item(), passes[positions == 7].tolist(), balanced.steps_per_epoch
    (2, [0, 1], 2)
    """

    def __init__(
        self, labels: np.ndarray, batch_size: int, *, seed: int, sampling: Sampling = SHUFFLED, salt: int = 0
    ) -> None:
        seed = salted(seed, salt)
        count, repeats = len(labels), sampling.repeats
        if batch_size > count:
            raise UsageError(
                f"batch size {batch_size} is larger than the {count} training examples; use at most {count}"
            )
        different, rest = divmod(batch_size, repeats)
        if rest or (repeats > 1 and different < 2):
            raise UsageError(
                f"data.repeats {repeats}: a batch of {batch_size} does not hold two images or more {repeats} times "
                f"each; use a batch size that is a multiple of {repeats}, {2 * repeats} or more"
            )
        self.steps_per_epoch = count // batch_size
        self._repeats = repeats
        match sampling.balance:
            case "none":
                self._draw = _shuffled(count, different, seed)
            case "classes":
                self._draw = _balanced(labels, different, seed)
            case _:
                assert_never(sampling.balance)
        self._draw(0)  # a bad seed shows here, not in a thread

    def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions in the records of global batch ``step`` (0-based) and the pass of each, int64 (B,).

        Repeats of an image are B / repeats rows apart, so that a mixed pair, two adjacent rows, has two different
        images.

        Raises:
            UsageError: if the step is negative.
        """
        if step < 0:
            raise UsageError(f"step {step} must be at least 0")
        positions, passes = self._draw(step)
        if self._repeats == 1:
            return positions, passes
        repeat = np.repeat(np.arange(self._repeats), len(positions))
        return np.tile(positions, self._repeats), np.tile(passes, self._repeats) * self._repeats + repeat


def _shuffled(count: int, different: int, seed: int) -> Draw:
    """Draw from a new permutation in each pass; examples that do not fill a last batch are left out."""
    steps = count // different
    kept = np.int32 if count < 2**31 else np.int64  # of a million examples two orders are 8 MB

    @functools.lru_cache(maxsize=2)
    def order(passes: int) -> np.ndarray:
        return permutation(count, seed, SHUFFLE, passes).astype(kept)

    def draw(step: int) -> tuple[np.ndarray, np.ndarray]:
        passes, position = divmod(step, steps)
        start = position * different
        return order(passes)[start : start + different].astype(np.int64), np.full(different, passes)

    return draw


def _balanced(labels: np.ndarray, different: int, seed: int) -> Draw:
    """Draw all K classes once in every K rows, in random order; within a class, from a new permutation in each pass.

    So the r-th round of K rows takes from each class its r-th example, counted over the passes of that class.
    """
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1 or len(np.unique(labels)) < 2:
        raise DataError(
            "data.balance classes: the training examples have no classes, or only one, to draw equally often; set it "
            "to none"
        )
    pools = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    classes = len(pools)

    @functools.lru_cache(maxsize=2 + different // classes)
    def round_of(number: int) -> np.ndarray:
        return permutation(classes, seed, CLASS_ORDER, number)

    @functools.lru_cache(maxsize=2 * classes)
    def examples(which: int, passes: int) -> np.ndarray:
        return pools[which][permutation(len(pools[which]), seed, CLASS_EXAMPLES, passes, which)]

    def draw(step: int) -> tuple[np.ndarray, np.ndarray]:
        rounds, places = np.divmod(np.arange(step * different, (step + 1) * different), classes)
        positions, drawn = np.empty(different, np.int64), np.empty(different, np.int64)
        for row, (number, place) in enumerate(zip(rounds.tolist(), places.tolist(), strict=True)):
            which = int(round_of(number)[place])
            drawn[row], position = divmod(number, len(pools[which]))
            positions[row] = examples(which, int(drawn[row]))[position]
        return positions, drawn

    return draw
