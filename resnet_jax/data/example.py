"""An example is a dict of named arrays of any dtype and rank; a source provides examples by index.

The network's input is named ``image``, whether it is an image, a signal or a volume; the desired output is named
``label``. Other fields have the names given by their source, except those that every batch adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from resnet_jax.errors import DataError

#: A dict of named arrays: ``image``, ``label``, masks, boxes, anything.
Example: TypeAlias = dict[str, np.ndarray]

Meaning = Literal["image", "signal", "volume", "mask", "boxes", "label", "array"]
"""What an array is: image (H, W, C), signal (L, C), volume (D, H, W, C), mask (the input's shape without channels, or
with), boxes (n, 4) as top, left, bottom, right in pixels; label; or any array, which no transform moves."""

#: Names of the arrays that a batch adds.
RESERVED = ("mask", "index", "epoch")

INPUTS: tuple[Meaning, ...] = ("image", "signal", "volume")
"""What a network's input can be."""

OTHER = "other"
"""The second input, for examples that have two."""

MEANING_OF_RANK: dict[int, Meaning] = {2: "signal", 3: "image", 4: "volume"}
"""Number of axes of an input, including channels -> what it is."""


@dataclass(frozen=True)
class Field:
    """One array of every example of a source.

    Attributes:
        shape: None for a side that varies between examples.
        dtype: NumPy's name of the dtype.
        meaning: how transforms treat it.
    """

    shape: tuple[int | None, ...]
    dtype: str
    meaning: Meaning = "array"


Spec: TypeAlias = Mapping[str, Field]


@runtime_checkable
class Source(Protocol):
    """Labeled examples by index. Reading is thread-safe, and an index always gives the same example."""

    @property
    def labels(self) -> np.ndarray:
        """All labels: int32 (N,) for classes, float32 (N, K) for multi-label or (N,), (N, M) for values."""
        ...

    @property
    def spec(self) -> Spec:
        """What an example contains: name -> shape, dtype and meaning."""
        ...

    def __len__(self) -> int:
        """Return the number of examples, N."""
        ...

    def __getitem__(self, index: int, /) -> Example:
        """Return example ``index``: ``image`` and other fields; ``label`` may be left to :attr:`labels`."""
        ...

    def describe(self, index: int) -> str:
        """Return where example ``index`` comes from, for messages: its file, or its index and source."""
        ...


def fields_of(spec: Spec) -> dict[str, Field]:
    """Return the fields of examples except the label, the input first.

    Raises:
        DataError: if there is no input, or a field has a name that batches reserve.
    """
    if "image" not in spec:
        raise DataError(f"the examples hold {', '.join(spec) or 'nothing'} and no 'image', which the network is given")
    for name in RESERVED:
        if name in spec:
            raise DataError(f"a field is called {name!r}, which every batch adds itself; give it another name")
    return {"image": spec["image"], **{name: field for name, field in spec.items() if name not in ("image", "label")}}


def meaning_of(name: str, array: np.ndarray, inputs: np.ndarray) -> Meaning:
    """Return what further arrays (N, ...) of a source are, according to their names: mask, boxes, or any array.

    Args:
        name: a name containing ``mask`` or ``segmentation`` is a mask if its sides are the input's; ``boxes`` are boxes
            if their last axis is 4.
        array: values of all examples.
        inputs: inputs of all examples, with channels.
    """
    if ("mask" in name or "segmentation" in name) and array.shape[1 : inputs.ndim - 1] == inputs.shape[1:-1]:
        return "mask"
    if "boxes" in name and array.ndim == 3 and array.shape[-1] == 4:
        return "boxes"
    return "array"


def spec_of(example: Mapping[str, np.ndarray], meanings: Mapping[str, Meaning] | None = None) -> dict[str, Field]:
    """Return the fields of a source whose examples are all like this one.

    >>> spec_of({"image": np.zeros((4, 4, 1), np.uint8), "boxes": np.zeros((2, 4))})["image"]
    Field(shape=(4, 4, 1), dtype='uint8', meaning='image')
    """
    known: dict[str, Meaning] = {"boxes": "boxes", "label": "label", **(meanings or {})}
    if "image" in example:
        known.setdefault("image", MEANING_OF_RANK.get(np.ndim(example["image"]), "array"))
    return {
        name: Field(np.shape(value), np.asarray(value).dtype.name, known.get(name, "array"))
        for name, value in example.items()
    }


def encoded_spec(channels: int, labels: np.ndarray) -> dict[str, Field]:
    """Return the fields of a source of uint8 image files of any size."""
    label = Field(labels.shape[1:], labels.dtype.name, "label")
    return {"image": Field((None, None, channels), "uint8", "image"), "label": label}
