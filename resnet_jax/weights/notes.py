"""Metadata that an exported file keeps next to its tensors, so that importing it restores the exported network.

A state dict does not contain the activation, the normalization or the names of the classes. safetensors can store
strings: one of them, under :data:`KEY`, is a JSON object with the fields of :class:`Notes`. Other libraries ignore it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from resnet_jax.errors import DataError

KEY = "resnet_jax"


@dataclasses.dataclass(frozen=True)
class Notes:
    """A network and its images.

    Attributes:
        model: name of the network.
        choices: differences from the named network; always includes the numbers of classes and channels.
        class_names: names of the outputs, in order.
        image_shape: (height, width, channels) of the network's input.
        crop: geometry of the images, as ``data.crop``.
        mean: per channel, of x / 255; empty if unknown.
        std: per channel, of x / 255.
        loss: training loss of the outputs, as ``task.loss``; ``cross_entropy`` for the task's own.
        task: the meaning of the outputs, as ``task.kind``.
        label_kind: kind of the labels: class, multi-label or value.
        threshold: as ``task.threshold``.
        target_mean: for predicted values, one per target: added to the outputs.
        target_std: for predicted values: factor on the outputs; empty if the outputs are the values.
    """

    model: str
    choices: dict[str, Any]
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    crop: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    loss: str
    task: str = "classification"
    label_kind: str = "class"
    threshold: tuple[float, ...] = (0.5,)
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()

    def as_metadata(self) -> dict[str, str]:
        """Return the string to store with the tensors."""
        return {KEY: json.dumps(dataclasses.asdict(self))}


def read_notes(metadata: Mapping[str, str], source: object) -> Notes | None:
    """Return the notes in the metadata of a file, or None if it has none.

    Raises:
        DataError: they do not have the form that :meth:`Notes.as_metadata` writes; ``source`` names the file.
    """
    if KEY not in metadata:
        return None
    wrong = DataError(f"{source}: the text {KEY!r} in it is not as `weights export` of this version writes it")
    try:
        raw = json.loads(metadata[KEY])
        notes = Notes(**{key: _tuples(value) for key, value in raw.items()})
    except (ValueError, TypeError, AttributeError):
        raise wrong from None
    kinds = {"model": str, "choices": dict, "crop": str, "loss": str, "task": str, "label_kind": str}
    number = (int, float)
    lists = {"class_names": str, "image_shape": int, "mean": number, "std": number, "threshold": number}
    lists |= {"target_mean": number, "target_std": number}
    fits = all(isinstance(getattr(notes, name), kind) for name, kind in kinds.items())
    for name, kind in lists.items():
        value = getattr(notes, name)
        fits = fits and isinstance(value, tuple) and all(isinstance(item, kind) for item in value)
    if not fits:
        raise wrong
    return notes


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(child) for key, child in value.items()}
    return tuple(value) if isinstance(value, list) else value
