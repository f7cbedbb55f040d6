"""What a task knows about the data: kind, names and counts of the labels, mean and deviation of targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

LabelKind = Literal["class", "multi-label", "value", "segmentation", "boxes"]
"""One class, int32 (N,); several labels, rows of 0 and 1, (N, K); values, float32 (N,) or (N, M). Where labels
are 0, other fields of the examples are learned: a class per pixel (``segmentation``), or boxes and their classes."""

SAID_OF_KIND: dict[str, str] = {
    "class": "a class each",
    "multi-label": "any number of labels each",
    "value": "numbers to predict",
    "segmentation": "a class of every pixel",
    "boxes": "boxes with a class each",
}
"""Description of the labels, for messages."""


@dataclasses.dataclass(frozen=True)
class TargetFacts:
    """Facts about the target; all numbers refer to the training examples.

    Attributes:
        label_kind: kind of the labels.
        names: names of the classes, labels or targets, in order.
        examples: training examples with a label; 0 if there are none, as for an imported network.
        counts: examples of every class, or with every label; () if unknown.
        mean: mean of every target; () if labels are not numbers, or if unknown.
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
    """Facts about the labels, and about other fields of the examples that a network learns.

    Attributes:
        outputs: number of outputs of the network, if it is given and differs from the number of names.
        targets: field -> its facts, for the fields that ``task.heads`` names.
    """

    outputs: int | None = None
    targets: Mapping[str, TargetFacts] = dataclasses.field(default_factory=dict)

    @property
    def num_outputs(self) -> int:
        """Return the number of outputs that the network should have: the given one, or one per name."""
        return len(self.names) if self.outputs is None else self.outputs
