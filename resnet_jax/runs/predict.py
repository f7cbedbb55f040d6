"""Naming what is in image files: batch after batch of one fixed shape, each result as soon as it is there."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.augment import normalize
from resnet_jax.data.decode import decode_image, has_colours
from resnet_jax.errors import DataError, UsageError
from resnet_jax.models.resnet import ResNet
from resnet_jax.runs.chosen import describe_sizes
from resnet_jax.runs.trained import TrainedRun, class_names_of, require_images
from resnet_jax.runtime.paths import user_path
from resnet_jax.training.step import make_predict_step

BATCH_SIZE = 16
"""Images in a batch. One shape for any number of images, so one compilation; few, so that results come soon."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the network sees in one image: the likeliest classes, likeliest first.

    Attributes:
        image: the file.
        classes: their names; empty if the file could not be read.
        probabilities: of these classes.
        error: why the file could not be read, or None.
    """

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None


class Predictor:
    """A network ready to classify images; it compiles at the first batch, once in a process for the same network.

    Args:
        trained: as :func:`resnet_jax.runs.trained.load_run` gives it.

    Raises:
        UsageError: a network without classes, or whose normalization is not known.
    """

    def __init__(self, trained: TrainedRun):
        require_images(trained)
        self.trained = trained
        self.class_names = class_names_of(trained)
        self._sizes: set[tuple[int, int]] = set()
        self._greyed = 0

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return what the network makes of images.

        Args:
            images: uint8 (N, H, W, C) of the network's size.

        Returns:
            float64 (N, classes): of one output that says no or yes, the two columns are no and yes.
        """
        card, model = self.trained.card, self.trained.model
        images = np.asarray(images)
        parts = []
        for start in range(0, len(images), BATCH_SIZE):
            batch = np.zeros((BATCH_SIZE, *card.image_shape), np.uint8)
            part = images[start : start + BATCH_SIZE]
            batch[: len(part)] = part
            parts.append(np.asarray(_logits(model, card.mean, card.std, self.trained.variables, batch))[: len(part)])
        logits = np.concatenate(parts).astype(np.float64)
        if logits.shape[1] == 1:
            return class_probabilities(np.concatenate([np.zeros_like(logits), logits], axis=1), "cross_entropy")
        return class_probabilities(logits, self.trained.config.train.loss)

    def predict(self, paths: Iterable[str | Path], top: int = 5) -> Iterator[Prediction]:
        """Classify image files; yield in their order, a batch at a time. A file that cannot be read has an ``error``.

        An image of another size than the network's is brought to it as in evaluation.

        Args:
            paths: image files.
            top: how many classes to return for each, at most all.

        Raises:
            UsageError: ``top`` is below 1.
        """
        if top < 1:
            raise UsageError(f"top must be 1 or more classes, got {top}")
        return self._predict(iter(paths), top)

    def _predict(self, paths: Iterator[str | Path], top: int) -> Iterator[Prediction]:
        while batch := list(islice(paths, BATCH_SIZE)):
            read = [self._read(user_path(path)) for path in batch]
            images = [image for image in read if not isinstance(image, DataError)]
            rows = iter(self.probabilities(np.stack(images)) if images else ())
            for path, image in zip(batch, read, strict=True):
                if isinstance(image, DataError):
                    yield Prediction(str(path), (), (), str(image))
                    continue
                row = next(rows)
                order = np.argsort(-row, kind="stable")[:top]
                names = tuple(self.class_names[index] for index in order)
                yield Prediction(str(path), names, tuple(float(row[index]) for index in order))

    def said(self) -> tuple[str, ...]:
        """Say what was done to the images read so far, as evaluation does: other sizes, colours turned to grey."""
        sizes = describe_sizes(self.trained, self._sizes)
        if not self._greyed:
            return sizes
        images = "1 image" if self._greyed == 1 else f"{self._greyed:,} images"
        return (*sizes, f"{images} in colours turned to grey: the network takes 1 channel")

    def _read(self, path: Path) -> np.ndarray | DataError:
        height, width, channels = self.trained.card.image_shape
        try:
            data = _read_bytes(path)
            stored = decode_image(data, channels, str(path))
            image = self.trained.geometry.eval_image(stored)
            self._greyed += channels == 1 and has_colours(decode_image(data, 3, str(path)))
            self._sizes.add((stored.shape[0], stored.shape[1]))
        except DataError as error:
            return error
        if image.shape[:2] != (height, width):
            return DataError(
                f"{path} has {image.shape[0]}x{image.shape[1]} pixels (height x width), and {self.trained.path} takes "
                f"{height}x{width}: no rule brings images to a size that is not square"
            )
        return image


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


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _logits(
    model: ResNet, mean: tuple[float, ...], std: tuple[float, ...], variables: dict[str, Any], images: jax.Array
) -> jax.Array:
    """Return the outputs for uint8 images. One function of the module: JAX then keeps what it compiled by network."""

    def preprocess(_key: Any, batch: Any) -> jax.Array:
        return normalize(batch["image"], mean, std, jnp.dtype(model.config.dtype))

    return make_predict_step(model, preprocess=preprocess)(variables, {"image": images})


def class_probabilities(logits: np.ndarray, loss: str) -> np.ndarray:
    """Turn logits, float64 (N, classes >= 2), into what the network was trained to mean by them."""
    if loss == "mse":  # trained towards one-hot vectors
        return np.clip(logits, 0.0, 1.0)
    if loss == "bce":  # one yes or no per class; they need not add up to 1
        return np.exp(-np.logaddexp(0.0, -logits))
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
