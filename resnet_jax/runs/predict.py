"""Naming what is in images: batch after batch of a few fixed shapes, each result as soon as it is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from resnet_jax.errors import DataError, UsageError
from resnet_jax.runs.inference import BUCKETS, Image, Inference
from resnet_jax.runs.trained import TrainedRun, class_names_of


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the network sees in one image: the likeliest classes, likeliest first.

    Attributes:
        image: the file; of bytes and pixels, which image it was, counted from 0.
        classes: their names; empty if the image could not be read.
        probabilities: of these classes.
        error: why it could not be read, or None.
    """

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None


class Predictor(Inference):
    """A network ready to classify images.

    Args:
        trained: as :func:`resnet_jax.runs.trained.load_run` gives it.
        buckets: see :class:`resnet_jax.runs.inference.Inference`.

    Raises:
        UsageError: a network without classes, or whose normalization is not known; buckets that are not ascending.
    """

    def __init__(self, trained: TrainedRun, buckets: Sequence[int] = BUCKETS):
        super().__init__(trained, buckets)
        self.class_names = class_names_of(trained)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return what the network makes of images.

        Args:
            images: uint8 (N, H, W, C) of the network's size.

        Returns:
            float64 (N, classes): of one output that says no or yes, the two columns are no and yes.

        Raises:
            UsageError: images of another shape or dtype.
        """
        logits = self.outputs(images).astype(np.float64)
        if logits.shape[1] == 1:
            return class_probabilities(np.concatenate([np.zeros_like(logits), logits], axis=1), "cross_entropy")
        return class_probabilities(logits, self.trained.config.train.loss)

    def predict(self, images: Iterable[Image], top: int = 5) -> Iterator[Prediction]:
        """Classify images; yield in their order, a batch at a time. One that cannot be read has an ``error``.

        An image of another size than the network's is brought to it as in evaluation.

        Args:
            images: any number of image files, their bytes, or pixels.
            top: how many classes to return for each, at most all.

        Raises:
            UsageError: ``top`` is below 1.
        """
        if top < 1:
            raise UsageError(f"top must be 1 or more classes, got {top}")
        return self._predict(images, top)

    def _predict(self, images: Iterable[Image], top: int) -> Iterator[Prediction]:
        for name, row in self.each(images, self.probabilities):
            if isinstance(row, DataError):
                yield Prediction(name, (), (), str(row))
                continue
            order = np.argsort(-row, kind="stable")[:top]
            classes = tuple(self.class_names[index] for index in order)
            yield Prediction(name, classes, tuple(float(row[index]) for index in order))


def predict_images(trained: TrainedRun, paths: Sequence[str | Path], top: int = 5) -> list[Prediction]:
    """Classify image files; see :meth:`Predictor.predict`, which yields them as they come.

    Args:
        trained: as :func:`resnet_jax.runs.trained.load_run` gives it.
        paths: image files.
        top: how many classes to return for each, at most all.

    Returns:
        One for each path, in order; a file that is missing or no image has an ``error`` and no classes.

    Raises:
        UsageError: ``top`` is below 1, or the network has no classes to name.
    """
    return list(Predictor(trained).predict(paths, top))


def class_probabilities(logits: np.ndarray, loss: str) -> np.ndarray:
    """Turn logits, float64 (N, classes >= 2), into what the network was trained to mean by them."""
    if loss == "mse":  # trained towards one-hot vectors
        return np.clip(logits, 0.0, 1.0)
    if loss == "bce":  # one yes or no per class; they need not add up to 1
        return np.exp(-np.logaddexp(0.0, -logits))
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
