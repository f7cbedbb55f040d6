"""A source seen through a geometry: every field has one shape, or the error says which example has another."""

from __future__ import annotations

import numpy as np

from resnet_jax.data.example import Example, fields_of
from resnet_jax.data.records import Source, gather, in_memory
from resnet_jax.data.transform import Geometry
from resnet_jax.errors import DataError


class View:
    """Examples ready to be stacked; the first example, through the geometry, decides the shapes.

    Attributes:
        shape: of every input, channels last: (height, width, channels) of images.
        fields: name -> shape and dtype of every field but the label, the input first.
        spec: of the source.
        stored: whether the source holds exactly these examples in memory, so that nothing is done an example.
    """

    def __init__(self, records: Source, geometry: Geometry, *, training: bool, seed: int = 0) -> None:
        self.records, self.geometry, self.training, self.seed = records, geometry, training, seed
        self.spec = records.spec
        names = fields_of(self.spec)
        if not len(records):
            raise DataError("there are no examples")
        first = records[0]
        self.stored = in_memory(records) and geometry.keeps(first["image"].shape, training=training)
        seen = first if self.stored else self._seen(first, 0, 0)
        self.fields = {name: (seen[name].shape, seen[name].dtype) for name in names}
        self.shape = self.fields["image"][0]

    @property
    def example_bytes(self) -> int:
        """Bytes of one example without its label."""
        return sum(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in self.fields.values())

    def image(self, index: int, epoch: int = 0) -> np.ndarray:
        """Return the input of example ``index``; see :meth:`example`."""
        return self.example(index, epoch)["image"]

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return example ``index``; its random part depends on (seed, epoch, index) alone.

        Raises:
            DataError: unreadable, or a field of another shape or dtype than that of the first example.
        """
        example = self._seen(self.records[index], index, epoch)
        for name, (shape, dtype) in self.fields.items():
            if name not in example:
                raise DataError(f"{self.records.describe(index)} has no {name!r}, which {self.records.describe(0)} has")
            if example[name].shape != shape or example[name].dtype != dtype:
                raise DataError(self._differs(name, example[name], index))
        return example

    def _seen(self, example: Example, index: int, epoch: int) -> Example:
        if self.training:
            return self.geometry.train_example(example, self.spec, (self.seed, epoch, index))
        return self.geometry.eval_example(example, self.spec)

    def _differs(self, name: str, found: np.ndarray, index: int) -> str:
        (shape, dtype), describe = self.fields[name], self.records.describe
        if found.dtype != dtype:
            return (
                f"{describe(index)} holds {found.dtype} but {describe(0)} {dtype}: all must have the same ({name}); "
                "save them alike"
            )
        if name != "image":
            return (
                f"{name} of {describe(index)} is {_size(found.shape)} but that of {describe(0)} is {_size(shape)}; a "
                "batch needs one shape: pad it"
            )
        advice = "set data.image_size to bring all images to one size"
        if found.ndim != 3:
            advice = "all must have one shape: cut or pad them"
        elif found.shape[:2] == shape[:2]:
            advice = "all images need the same number of channels"
        axes = " (height x width x channels)" if found.ndim == 3 else ""
        return f"{describe(index)} is {_size(found.shape)} but {describe(0)} is {_size(shape)}{axes}; {advice}"

    def images(self, indices: np.ndarray, epoch: int | np.ndarray = 0) -> np.ndarray:
        """Return the inputs at ``indices``, (len(indices), *shape)."""
        return self.examples(indices, epoch)["image"]

    def examples(self, indices: np.ndarray, epoch: int | np.ndarray = 0) -> Example:
        """Return the examples at ``indices`` stacked: every field but the label, (len(indices), ...).

        Args:
            indices: (B,) integers.
            epoch: of all of them, or of each, (B,).
        """
        if self.stored and (found := gather(self.records, indices)) is not None:
            return found
        stacked = {name: np.empty((len(indices), *shape), dtype) for name, (shape, dtype) in self.fields.items()}
        epochs = np.broadcast_to(epoch, len(indices))
        for row, index in enumerate(indices):
            example = self.example(int(index), int(epochs[row]))
            for name, values in stacked.items():
                values[row] = example[name]
        return stacked


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)
