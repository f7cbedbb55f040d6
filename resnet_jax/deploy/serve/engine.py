"""One interface, from images to answers, for everything that is served: a run or an exported file."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from resnet_jax.data.boxes import NO_BOX
from resnet_jax.deploy.serve.images import check_file
from resnet_jax.deploy.serve.problems import not_readable
from resnet_jax.errors import DataError, UsageError
from resnet_jax.models.digest import params_digest
from resnet_jax.runs.images import ImagePreparation, prepared
from resnet_jax.runs.inference import WITH_POOLED
from resnet_jax.runs.predict import Prediction, Predictor
from resnet_jax.runs.trained import TrainedRun, load_run
from resnet_jax.runtime.paths import user_path

ArrayTree: TypeAlias = Any
"""An array or a dict of arrays: the result of :meth:`Engine.compute`, or a row of it."""


@dataclasses.dataclass(frozen=True)
class Ready:
    """An image prepared for the network.

    Attributes:
        pixels: (H, W, C).
        sides: original height and width.
    """

    pixels: np.ndarray
    sides: tuple[int, int]


class Engine(abc.ABC):
    """A network that is served.

    Attributes:
        name: name of the network.
        task: its task, such as ``classification``.
        digest: digest of its parameters.
        classes: the classes it can predict, in order.
        shape: shape of one image for the network, (H, W, C).
        dtype: dtype of its pixels.
        sizes: batch sizes, each of which is compiled once.
        notes: remarks for the person who runs the server, one sentence each.
    """

    name: str
    task: str
    digest: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    dtype: str
    sizes: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def read(self, data: bytes, pixels: int) -> Ready:
        """Decode an image file and prepare it for the network.

        Args:
            data: the file as it was sent.
            pixels: maximum number of pixels of an image that is decoded.

        Raises:
            Problem: it cannot be used; the message says why.
        """
        check_file(data, pixels)
        return self._ready(data)

    def take(self, array: np.ndarray) -> Ready:
        """Prepare pixels (H, W, C), or (H, W) for grayscale, for the network.

        Raises:
            Problem: they cannot be used; the message says why.
        """
        array = array[..., None] if array.ndim == 2 and self.shape[-1] == 1 else array
        if array.ndim != 3 or array.shape[-1] != self.shape[-1]:
            raise not_readable(f"pixels must be (height, width, {self.shape[-1]}), got {array.shape}")
        return self._ready(np.ascontiguousarray(array))

    @abc.abstractmethod
    def _ready(self, image: bytes | np.ndarray) -> Ready: ...

    @abc.abstractmethod
    def compute(self, images: np.ndarray) -> Any:
        """Return the outputs for images (N, H, W, C), with the features to watch if any: a tree of arrays (N, ...)."""

    @abc.abstractmethod
    def prediction(self, row: Any, sides: tuple[int, int], top: int) -> Prediction:
        """Interpret a row of :meth:`compute`."""

    def outputs_in(self, row: ArrayTree) -> ArrayTree:
        """Return the network's outputs from a row of :meth:`compute`."""
        return row

    @abc.abstractmethod
    def info(self) -> dict[str, Any]:
        """Return network, classes and preprocessing."""


class RunEngine(Engine):
    """The network of a run directory.

    Args:
        trained: the run.
        sizes: batch sizes.
        watched: whether to compute pooled features too.
    """

    def __init__(self, trained: TrainedRun, sizes: Sequence[int], *, watched: bool = False):
        self.predictor = Predictor(trained, sizes, WITH_POOLED if watched else None)
        self.trained, self.watched = trained, watched
        self.name, self.task, self.sizes = trained.config.model.name, trained.task.kind, tuple(sizes)
        self.classes, card = self.predictor.class_names, trained.card
        height, width, channels = card.image_shape
        self.shape, self.dtype = (height, width, channels), card.image_dtype
        self.digest = params_digest(trained.variables["params"], trained.variables.get("batch_stats", {}))

    def _ready(self, image: bytes | np.ndarray) -> Ready:
        found, sides = self.predictor.read_with_sides(image, "")
        if isinstance(found, DataError):
            said = str(found).removeprefix("image : ").strip().replace(str(self.trained.path), "the network")
            raise not_readable(said)
        return Ready(found, sides)

    def compute(self, images: np.ndarray) -> Any:
        """Return the outputs; if watched, a dict of ``outputs`` and ``pooled``."""
        return self.predictor.outputs(images)

    def prediction(self, row: Any, sides: tuple[int, int], top: int) -> Prediction:
        """Interpret a row."""
        return self.predictor.prediction("", sides, self.outputs_in(row), top)

    def outputs_in(self, row: ArrayTree) -> ArrayTree:
        """Return the network's outputs from a row."""
        return row["outputs"] if self.watched else row

    def boxes_in(self, row: ArrayTree) -> list[tuple[int, list[float]]]:
        """Return class and box of each detection, in pixels of the prepared image."""
        task: Any = self.predictor.task
        found = task.located(jax.tree.map(lambda each: each[None], self.outputs_in(row)))
        pairs = zip(found["labels"][0].tolist(), found["boxes"][0].tolist(), strict=True)
        return [(label, box) for label, box in pairs if label != NO_BOX]

    def info(self) -> dict[str, Any]:
        """Return network, classes and preprocessing."""
        trained, geometry = self.trained, self.trained.geometry
        return {
            "network": self.name,
            "task": self.task,
            "step": trained.step,
            "digest": self.digest,
            "classes": list(self.classes),
            "preprocessing": {
                "height": self.shape[0],
                "width": self.shape[1],
                "channels": self.shape[2],
                "dtype": self.dtype,
                "mean": list(trained.card.mean),
                "std": list(trained.card.std),
                "shorter_side": geometry.shorter_side if geometry.image_size is not None else None,
                "resize": None if geometry.resize is None else list(geometry.resize),
            },
            "runtime": f"jax {jax.__version__} on {jax.default_backend()}",
        }


def row_of(found: Any, index: int) -> Any:
    """Return the row of one image from a result of :meth:`Engine.compute`."""
    return jax.tree.map(lambda each: each[index], found)


def open_engine(
    path: Path,
    sizes: Sequence[int],
    *,
    checkpoint: str | None = None,
    data: ImagePreparation | None = None,
    class_names: Path | None = None,
    watched: bool = False,
) -> Engine:
    """Return the engine of a run directory or of an exported file.

    Args:
        path: path of either.
        sizes: batch sizes.
        checkpoint: for a run: which checkpoint.
        data: for a run: preprocessing of images, if it differs from the run's own.
        class_names: for a run: a file that names the outputs.
        watched: whether to compute pooled features too.

    Raises:
        UsageError: the path is neither, or options for a run are given with a file.
    """
    data = ImagePreparation() if data is None else data
    if user_path(path).is_file():
        if checkpoint is not None or class_names is not None or data != ImagePreparation():
            raise UsageError(f"{path} is a file, which says itself how images are prepared and what its classes are")
        from resnet_jax.deploy.serve.exported import ArtefactEngine

        return ArtefactEngine(path, sizes)
    return RunEngine(prepared(load_run(path, checkpoint), data, class_names), sizes, watched=watched)
