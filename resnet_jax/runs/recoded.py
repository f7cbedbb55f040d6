"""Records of another source with the classes in one field mapped to positions of a network's outputs."""

from __future__ import annotations

import dataclasses

import numpy as np

from resnet_jax.data.example import Example, Spec
from resnet_jax.data.records import Records


@dataclasses.dataclass(frozen=True, eq=False)
class Recoded:
    """Records with other classes in a field.

    Attributes:
        records: records that have the field.
        field: the field whose values are classes, such as ``segmentation`` or ``box_label``.
        table: class there -> class here; a class -1 maps to its last entry.
    """

    records: Records
    field: str
    table: np.ndarray

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int, /) -> Example:
        example = self.records[index]
        return {**example, self.field: self.table[example[self.field]]}

    @property
    def labels(self) -> np.ndarray:
        return self.records.labels

    @property
    def spec(self) -> Spec:
        return self.records.spec

    def describe(self, index: int) -> str:
        return self.records.describe(index)
