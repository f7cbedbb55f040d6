"""What a task is told about the data: the kind of its labels, their names and counts, mean and deviation of targets."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

LabelKind = Literal["class", "labels", "values"]
"""One class an example; any number of labels, rows of 0 and 1; or numbers."""


@dataclasses.dataclass(frozen=True)
class TaskFacts:
    """What is known of the labels; all numbers are those of the training examples.

    Attributes:
        label_kind: what labels are.
        names: of the classes, the labels or the targets, in order.
        examples: training examples; 0 if there are none, as of an imported network.
        counts: examples of every class, or that have every label; () if not known.
        mean: of every target; () where labels are no numbers, or not known.
        std: their standard deviations.
        outputs: of the network, if that is given and not to be the number of names.
    """

    label_kind: LabelKind = "class"
    names: tuple[str, ...] = ()
    examples: int = 0
    counts: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    outputs: int | None = None

    @property
    def num_outputs(self) -> int:
        """Return how many outputs the network is to have: what is given, or one a name."""
        return len(self.names) if self.outputs is None else self.outputs


@dataclasses.dataclass(frozen=True)
class LabelFacts:
    """The part of :class:`TaskFacts` that is counted from labels."""

    kind: LabelKind
    counts: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, labels: np.ndarray, classes: int) -> LabelFacts:
        """Look at labels, (N,) or (N, K).

        Integers (N,) are classes; rows of nothing but 0 and 1 labels; everything else numbers.

        Args:
            labels: of the training examples.
            classes: how many names there are; read only if labels are classes.

        >>> LabelFacts.of(np.array([0, 2, 2]), 3)
        LabelFacts(kind='class', counts=(1, 0, 2), mean=(), std=())
        >>> LabelFacts.of(np.array([[0, 1], [1, 1]]), 2).counts, LabelFacts.of(np.array([1.0, 3.0]), 1).mean
        ((1, 2), (2.0,))
        """
        labels = np.asarray(labels)
        if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
            return cls("class", tuple(np.bincount(labels, minlength=classes).tolist()))
        if labels.ndim == 2 and ((labels == 0) | (labels == 1)).all():
            return cls("labels", tuple(int(count) for count in (labels != 0).sum(axis=0)))
        rows = np.asarray(labels, np.float64).reshape(len(labels), -1)
        return cls("values", (), tuple(rows.mean(axis=0).tolist()), tuple(rows.std(axis=0).tolist()))
