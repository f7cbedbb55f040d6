"""What an exported file says of itself beside its tensors, so that import gives back the network that was exported.

A state dict does not tell an activation, a normalization or the names of the classes. safetensors has a place for
texts: one of them, under :data:`KEY`, is a JSON object with the fields of :class:`Notes`. Other libraries pass it over.
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
        choices: what differs in it from the named one; the numbers of classes and channels always.
        class_names: of the outputs, in order.
        image_shape: (height, width, channels) the network sees.
        crop: geometry of the images, as ``data.crop``.
        mean: per channel, of x / 255; empty if not known.
        std: per channel, of x / 255.
        loss: what the outputs were trained for, as ``task.loss``; ``cross_entropy`` for the task's own.
        task: what the outputs mean, as ``task.kind``.
        label_kind: what the labels were: class, multi-label or value.
        threshold: as ``task.threshold``.
        target_mean: of values that are predicted, one a target; what outputs are shifted by.
        target_std: of these; what outputs are multiplied by; empty where they are the values.
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
        """Return the text to keep with the tensors."""
        return {KEY: json.dumps(dataclasses.asdict(self))}


def read_notes(metadata: Mapping[str, str], source: object) -> Notes | None:
    """Return the notes in the texts of a file, or None if it has none.

    Raises:
        DataError: there are some, but not as :meth:`Notes.as_metadata` writes them; ``source`` names the file.
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
