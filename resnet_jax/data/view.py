"""A source seen through a geometry: every field has the same shape in all examples, or the error names an exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from resnet_jax.data.example import Example, fields_of
from resnet_jax.data.records import Source, gather, in_memory
from resnet_jax.data.transform import Geometry
from resnet_jax.data.unreadable import Unreadable, first_readable, read_or_count
from resnet_jax.errors import DataError

#: A row -> index and epoch of the examples that may replace its own, in order of preference.
Others: TypeAlias = Callable[[int], Iterator[tuple[int, int]]]


class View:
    """Examples ready to be stacked; the first example, through the geometry, determines the shapes.

    Attributes:
        shape: shape of every input, channels last: (height, width, channels) for images.
        fields: name -> shape and dtype of every field except the label, the input first.
        spec: fields of the source.
        stored: whether the source holds exactly these examples in memory, so that no work is needed per example.
        first: the example whose shapes all must have: the first readable one.
    """

    def __init__(
        self,
        records: Source,
        geometry: Geometry,
        *,
        training: bool,
        seed: int = 0,
        unreadable: Unreadable | None = None,
    ) -> None:
        self.records, self.geometry, self.training, self.seed = records, geometry, training, seed
        self.spec, self.unreadable = records.spec, unreadable
        names = fields_of(self.spec)
        self.first, first = first_readable(records, unreadable)
        self.stored = in_memory(records) and geometry.keeps(first["image"].shape, training=training)
        seen = first if self.stored else self._seen(first, self.first, 0)
        self.fields = {name: (seen[name].shape, seen[name].dtype) for name in names}
        self.shape = self.fields["image"][0]

    @property
    def example_bytes(self) -> int:
        """Size in bytes of one example without its label."""
        return sum(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in self.fields.values())

    def image(self, index: int, epoch: int = 0) -> np.ndarray:
        """Return the input of example ``index``; see :meth:`example`."""
        return self.example(index, epoch)["image"]

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return example ``index``; its random part depends only on (seed, epoch, index).

        Raises:
            DataError: if it is unreadable, or a field differs in shape or dtype from the first example.
        """
        example = self._seen(self.records[index], index, epoch)
        self._check(example, index)
        return example

    def _check(self, example: Example, index: int) -> None:
        for name, (shape, dtype) in self.fields.items():
            found = example.get(name)
            if found is None:
                raise DataError(f"{self.records.describe(index)} has no {name!r}, which {self._first} has")
            if found.shape != shape or found.dtype != dtype:
                raise DataError(self._differs(name, found, index))

    @property
    def _first(self) -> str:
        return self.records.describe(self.first)

    def _seen(self, example: Example, index: int, epoch: int) -> Example:
        if self.training:
            return self.geometry.train_example(example, self.spec, (self.seed, epoch, index))
        return self.geometry.eval_example(example, self.spec)

    def _differs(self, name: str, found: np.ndarray, index: int) -> str:
        (shape, dtype), describe, first = self.fields[name], self.records.describe, self._first
        if found.dtype != dtype:
            return (
                f"{describe(index)} holds {found.dtype} but {first} {dtype}: all must have the same ({name}); "
                "save them alike"
            )
        if name != "image":
            return (
                f"{name} of {describe(index)} is {_size(found.shape)} but that of {first} is {_size(shape)}; a "
                "batch needs one shape: pad it"
            )
        advice = "set data.image_size to bring all images to one size"
        if found.ndim != 3:
            advice = "all must have one shape: cut or pad them"
        elif found.shape[:2] == shape[:2]:
            advice = "all images need the same number of channels"
        axes = " (height x width x channels)" if found.ndim == 3 else ""
        return f"{describe(index)} is {_size(found.shape)} but {first} is {_size(shape)}{axes}; {advice}"

    def images(self, indices: np.ndarray, epoch: int | np.ndarray = 0) -> np.ndarray:
        """Return the inputs at ``indices``, (len(indices), *shape)."""
        return self.examples(indices, epoch)["image"]

    def examples(self, indices: np.ndarray, epoch: int | np.ndarray = 0) -> Example:
        """Return the examples at ``indices`` stacked: every field except the label, (len(indices), ...).

        Args:
            indices: (B,) integers.
            epoch: the epoch of all of them, or of each, (B,).
        """
        return self.read(indices, epoch)[0]

    def read(
        self, indices: np.ndarray, epoch: int | np.ndarray = 0, others: Others | None = None
    ) -> tuple[Example, np.ndarray, np.ndarray]:
        """Return examples stacked, and which they are: if some are unreadable, possibly others than requested.

        Args:
            indices: the requested ones, (B,).
            epoch: the epoch of all of them, or of each, (B,), for their random part.
            others: row -> index and epoch of examples that may replace that row's if it is unreadable, the first
                readable one is used; None leaves such a row at zeros with the index -1.

        Returns:
            Every field except the label, (B, ...), and the indices and epochs, (B,).
        """
        epochs = np.broadcast_to(epoch, len(indices))
        if self.stored and (gathered := gather(self.records, indices)) is not None:
            return gathered, indices, epochs
        stacked = {name: np.empty((len(indices), *shape), dtype) for name, (shape, dtype) in self.fields.items()}
        if self.unreadable is not None:
            indices, epochs = indices.copy(), epochs.copy()
        for row, (index, passes) in enumerate(zip(indices.tolist(), epochs.tolist(), strict=True)):
            if self.unreadable is None:
                stored: Example | None = self.records[index]
            else:
                found = self._readable(index, passes, None if others is None else others(row), self.unreadable)
                index, passes, stored = found
                indices[row], epochs[row] = index, passes
            if stored is None:
                for values in stacked.values():
                    values[row] = 0
                continue
            example = self._seen(stored, index, passes)
            self._check(example, index)
            for name, values in stacked.items():
                values[row] = example[name]
        return stacked, indices, epochs

    def _readable(
        self, index: int, epoch: int, others: Iterator[tuple[int, int]] | None, unreadable: Unreadable
    ) -> tuple[int, int, Example | None]:
        """Return index, epoch and example: of the requested one, or of the first readable one of the others."""
        stored = read_or_count(self.records, index, unreadable)
        if others is None:
            return (-1 if stored is None else index), epoch, stored
        while stored is None:
            if len(unreadable) >= len(self.records):
                raise DataError(f"none of the {len(self.records):,} {unreadable.split} examples can be read")
            index, epoch = next(others)
            stored = read_or_count(self.records, index, unreadable)
        return index, epoch, stored


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)
