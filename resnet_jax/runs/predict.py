"""Prediction: batch after batch of a few fixed shapes, with each result as soon as it is available."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

import jax
import numpy as np

from resnet_jax.data.boxes import NO_BOX
from resnet_jax.errors import DataError, UsageError
from resnet_jax.runs.inference import BUCKETS, Image, Inference
from resnet_jax.runs.trained import TrainedRun, class_names_of
from resnet_jax.tasks.binary import Binary
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.detection import Detection
from resnet_jax.tasks.segmentation import Segmentation


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The network's prediction for one image; for classification, the most likely classes in descending order.

    Attributes:
        image: the file; for bytes and pixels, the index of the image, counted from 0.
        classes: names of the classes, of the labels above the threshold, or of the targets; empty if the image could
            not be read.
        probabilities: probabilities of these classes or labels.
        error: why it could not be read, or None.
        values: values of these targets, in their units.
        boxes: boxes of these classes, as top, left, bottom, right in pixels of the image as stored; ``probabilities``
            are their scores.
        sides: height and width of the image as stored, if there are boxes.
        fields: for dense tasks, predictions in the form of example fields: a ``segmentation`` (H, W) of the image as
            the network takes it.
    """

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None
    values: tuple[float, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    sides: tuple[int, int] | None = None
    fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Predictor(Inference):
    """A network ready for prediction.

    Args:
        trained: as returned by :func:`resnet_jax.runs.trained.load_run`.
        buckets: see :class:`resnet_jax.runs.inference.Inference`.
        part: None, or :data:`resnet_jax.runs.inference.WITH_POOLED` for a server that monitors features.

    Raises:
        UsageError: if the network has no classes or its normalization is unknown, or buckets are not ascending.
    """

    def __init__(self, trained: TrainedRun, buckets: Sequence[int] = BUCKETS, part: str | None = None):
        super().__init__(trained, buckets, part)
        self.class_names, self.task = class_names_of(trained), trained.task

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes or labels.

        Args:
            images: uint8 (N, H, W, C) of the network's size.

        Returns:
            float64 (N, classes); for a single yes-or-no output, the two columns are no and yes.

        Raises:
            UsageError: for images of another shape or dtype, or a task without probabilities.
        """
        probabilities = getattr(self.task, "probabilities", None)
        if probabilities is None:
            raise UsageError(f"task {self.task.kind} of {self.trained.path} has no probabilities; take its predictions")
        return probabilities(self.outputs(images))

    def predict(self, images: Iterable[Image], top: int = 5) -> Iterator[Prediction]:
        """Yield predictions for images in order, one batch at a time. An unreadable image has an ``error``.

        Images of other sizes are resized to the network's size as in evaluation.

        Args:
            images: any number of image files, their bytes, or pixels.
            top: number of classes to return for each, at most all; for labels, all above the threshold are returned,
                and for values all.

        Raises:
            UsageError: if ``top`` is below 1.
        """
        if top < 1:
            raise UsageError(f"top must be 1 or more classes, got {top}")
        return self._predict(images, top)

    def most_answers(self, top: int) -> int:
        """Return the maximum number of answers for an image."""
        if isinstance(self.task, Detection):
            return self.task.options.max_detections
        count = len(self.class_names)
        return min(top, count) if isinstance(self.task, Classification | Binary | Segmentation) else count

    def _predict(self, images: Iterable[Image], top: int) -> Iterator[Prediction]:
        for name, sides, row in self.each_with_sides(images):
            if isinstance(row, DataError):
                yield Prediction(name, (), (), str(row))
            else:
                yield self.prediction(name, sides, row, top)

    def prediction(self, name: str, sides: tuple[int, int], row: Any, top: int) -> Prediction:
        """Return the prediction for the outputs of one image.

        Args:
            name: name of the image.
            sides: height and width of the image as stored.
            row: a row of :meth:`outputs`, without the axis of examples.
            top: see :meth:`predict`.
        """
        row = jax.tree.map(lambda each: each[None], row)
        if isinstance(self.task, Detection):
            return self._located(self.task, name, sides, row)
        (pairs,) = self.task.predict(row, top)
        names, numbers = tuple(self.class_names[index] for index, _ in pairs), tuple(number for _, number in pairs)
        fields: dict[str, np.ndarray] = {}
        if getattr(self.task, "draws_examples", False):
            said = self.task.predicted_fields(row)
            fields = {field: values[0] for field, values in said.items()}
        match self.task.answers:
            case "probabilities":
                return Prediction(name, names, numbers, fields=fields)
            case "values":
                return Prediction(name, names, (), values=numbers, fields=fields)
            case "boxes":
                raise UsageError(f"task {self.task.kind} answers with boxes, which only detection can place")
            case _:
                assert_never(self.task.answers)

    def _located(self, task: Detection, name: str, sides: tuple[int, int], row: Any) -> Prediction:
        """Return the boxes of an image, in its own pixels."""
        found = task.located(row)
        there = found["labels"][0] != NO_BOX
        boxes = self.trained.geometry.boxes_as_stored(found["boxes"][0][there], sides)
        names = tuple(self.class_names[label] for label in found["labels"][0][there])
        scores = tuple(float(score) for score in found["scores"][0][there])
        return Prediction(name, names, scores, boxes=tuple(map(tuple, boxes.tolist())), sides=sides)


def predict_images(trained: TrainedRun, paths: Sequence[str | Path], top: int = 5) -> list[Prediction]:
    """Classify image files; see :meth:`Predictor.predict`, which yields results as they are computed.

    Args:
        trained: as returned by :func:`resnet_jax.runs.trained.load_run`.
        paths: image files.
        top: number of classes to return for each, at most all.

    Returns:
        One prediction per path, in order; a missing file or one that is not an image has an ``error`` and no classes.

    Raises:
        UsageError: if ``top`` is below 1, or the network has no classes.
    """
    return list(Predictor(trained).predict(paths, top))
