"""What a task is told about the data: the kind of its labels, their names and counts, mean and deviation of targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

LabelKind = Literal["class", "multi-label", "value", "segmentation", "boxes"]
"""One class, int32 (N,); several labels, rows of 0 and 1, (N, K); values, float32 (N,) or (N, M); or, with labels of 0,
what lies in other fields of examples: a class of every pixel (``segmentation``), or boxes and their classes."""

SAID_OF_KIND: dict[str, str] = {
    "class": "a class each",
    "multi-label": "any number of labels each",
    "value": "numbers to predict",
    "segmentation": "a class of every pixel",
    "boxes": "boxes with a class each",
}
"""What examples have, for messages."""


@dataclasses.dataclass(frozen=True)
class TargetFacts:
    """What is known of what is to be learned; all numbers are those of the training examples.

    Attributes:
        label_kind: what labels are.
        names: of the classes, the labels or the targets, in order.
        examples: training examples that have one; 0 if there are none, as of an imported network.
        counts: examples of every class, or that have every label; () if not known.
        mean: of every target; () where labels are no numbers, or not known.
        std: their standard deviations.
    """

    label_kind: LabelKind = "class"
    names: tuple[str, ...] = ()
    examples: int = 0
    counts: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class TaskFacts(TargetFacts):
    """What is known of the labels, and of other fields of examples that a network learns.

    Attributes:
        outputs: of the network, if that is given and not to be the number of names.
        targets: field -> what is known of it, of those that ``task.heads`` names.
    """

    outputs: int | None = None
    targets: Mapping[str, TargetFacts] = dataclasses.field(default_factory=dict)

    @property
    def num_outputs(self) -> int:
        """Return how many outputs the network is to have: what is given, or one a name."""
        return len(self.names) if self.outputs is None else self.outputs
