"""Serve an exported file, whose metadata describe how to prepare an image and what the outputs mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.data.decode import decode_image
from resnet_jax.data.transform import Geometry
from resnet_jax.deploy.artefact import JaxArtefact, load_artefact
from resnet_jax.deploy.serve.engine import Engine, Ready
from resnet_jax.deploy.serve.problems import not_readable
from resnet_jax.errors import DataError, UsageError
from resnet_jax.ops import native
from resnet_jax.runs.predict import Prediction


class ArtefactEngine(Engine):
    """A file that `resnet-jax export` wrote, in its runtime.

    Args:
        path: the file.
        sizes: batch sizes; for a file with a fixed batch size, that one.

    Raises:
        UsageError: it takes no images, its outputs have no names, or its task predicts boxes.
    """

    def __init__(self, path: Path, sizes: Sequence[int]):
        self.artefact = artefact = load_artefact(path)
        said = artefact.preprocessing
        self._task = artefact.metadata.make_task()
        self.task = self._task.kind
        if len(said.shape) != 3 or said.channels not in (1, 3):
            raise UsageError(f"{path} takes {said.shape}, but a server needs images with 1 or 3 channels")
        if said.takes == "normalized" and not said.mean:
            raise UsageError(f"{path} does not say how images are normalized: export it with data.mean and data.std")
        if self._task.answers == "boxes":
            raise UsageError(f"{path} predicts boxes: serve the run directory, which can place them in the image")
        if not artefact.classes:
            raise UsageError(f"{path} does not say what its outputs are: export it with class names")
        portable = isinstance(artefact, JaxArtefact) and not artefact.this_machine
        if portable and jax.default_backend() == "cpu" and native.available():
            self.notes = (
                f"{path} is a jax export, which runs everywhere and so without the code that is compiled for this "
                "processor: its run directory, or an ONNX file, is served faster",
            )
        height, width, channels = said.shape
        self.shape, self.dtype = (height, width, channels), said.dtype if said.takes == "pixels" else "uint8"
        if said.takes == "normalized" and said.scale != 255.0:
            raise UsageError(f"{path} takes images that are not divided by 255: image files are uint8")
        self.name = str(artefact.metadata.network.get("name", path.name))
        self.classes, self.digest = tuple(artefact.classes), artefact.metadata.digest
        self.sizes = tuple(sizes) if artefact.batch is None else (artefact.batch,)
        cut = said.resize is None
        margin = cut and said.shorter_side is not None and said.shorter_side > height
        self._geometry = Geometry(
            image_size=height if cut else None, train="random_resized" if margin else "none", resize=said.resize
        )

    def _ready(self, image: bytes | np.ndarray) -> Ready:
        try:
            stored = decode_image(image, self.shape[-1], "image ") if isinstance(image, bytes) else image
            found = self._geometry.eval_image(stored)
        except DataError as error:
            raise not_readable(str(error).removeprefix("image : ")) from error
        if found.shape != self.shape:
            raise not_readable(f"an image of {found.shape}, and the network takes {self.shape}")
        return Ready(found, (stored.shape[0], stored.shape[1]))

    def compute(self, images: np.ndarray) -> Any:
        """Return the outputs; the batch is padded to a compiled size."""
        size = next(size for size in self.sizes if size >= len(images))
        padded = np.zeros((size, *images.shape[1:]), images.dtype)
        padded[: len(images)] = images
        return jax.tree.map(lambda each: each[: len(images)], self.artefact.outputs_of_pixels(padded))

    def prediction(self, row: Any, sides: tuple[int, int], top: int) -> Prediction:
        """Interpret a row."""
        (pairs,) = self._task.predict(jax.tree.map(lambda each: each[None], row), top)
        names, numbers = tuple(self.classes[index] for index, _ in pairs), tuple(number for _, number in pairs)
        if self._task.answers == "values":
            return Prediction("", names, (), values=numbers)
        fields = {}
        if getattr(self._task, "of_pixels", False):
            fields = {name: each[0] for name, each in self._task.predicted_fields(np.asarray(row)[None]).items()}
        return Prediction("", names, numbers, fields=fields)

    def info(self) -> dict[str, Any]:
        """Return network, classes and preprocessing."""
        said = self.artefact.preprocessing
        return {
            "network": self.name,
            "task": self.task,
            "digest": self.digest,
            "licence": self.artefact.metadata.licence,
            "classes": list(self.classes),
            "preprocessing": {
                "height": self.shape[0],
                "width": self.shape[1],
                "channels": self.shape[2],
                "dtype": self.dtype,
                "mean": list(said.mean),
                "std": list(said.std),
                "shorter_side": said.shorter_side,
                "resize": None if said.resize is None else list(said.resize),
            },
            "runtime": self.artefact.runtime,
        }
