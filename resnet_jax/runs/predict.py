"""Naming what is in images: batch after batch of a few fixed shapes, each result as soon as it is there."""

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

BUCKETS = (16,)
"""Sizes of the batches that are compiled. One for any number of images; small, so that results come soon."""

Image = str | Path | bytes | np.ndarray
"""The path of an image file, the bytes of one, or its pixels: uint8 (H, W, C)."""


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


class Predictor:
    """A network ready to classify images; every size of batch is compiled once in a process for the same network.

    Args:
        trained: as :func:`resnet_jax.runs.trained.load_run` gives it.
        buckets: sizes of batches, ascending. Images go in batches of the largest; those left over fill the smallest
            that holds them, padded. A server that answers single images as fast as it can takes (1, 8, 64).

    Raises:
        UsageError: a network without classes, or whose normalization is not known; buckets that are not ascending.
    """

    def __init__(self, trained: TrainedRun, buckets: Sequence[int] = BUCKETS):
        require_images(trained)
        if not buckets or buckets[0] < 1 or list(buckets) != sorted(set(buckets)):
            raise UsageError(f"buckets must be sizes of batches, ascending and 1 or more, got {tuple(buckets)}")
        self.trained = trained
        self.class_names = class_names_of(trained)
        self.buckets = tuple(buckets)
        self._sizes: set[tuple[int, int]] = set()
        self._greyed = 0

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """Return the network's outputs, float32 (N, outputs), of uint8 images (N, H, W, C) of the network's size.

        Raises:
            UsageError: images of another shape or dtype.
        """
        card, images = self.trained.card, np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != tuple(card.image_shape):
            shape = ", ".join(str(side) for side in card.image_shape)
            raise UsageError(
                f"outputs are computed of uint8 images (N, {shape}), got {images.dtype} {images.shape}; predict takes "
                "images of any size"
            )
        parts = [np.zeros((0, self.trained.model.config.num_classes), np.float32)]
        for start in range(0, len(images), self.buckets[-1]):
            part = images[start : start + self.buckets[-1]]
            batch = np.zeros((next(size for size in self.buckets if size >= len(part)), *images.shape[1:]), np.uint8)
            batch[: len(part)] = part
            found = _logits(self.trained.model, card.mean, card.std, self.trained.variables, batch)
            parts.append(np.asarray(found)[: len(part)])
        return np.concatenate(parts)

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
        return self._predict(enumerate(images), top)

    def _predict(self, images: Iterator[tuple[int, Image]], top: int) -> Iterator[Prediction]:
        while batch := list(islice(images, self.buckets[-1])):
            names = [str(image) if isinstance(image, str | Path) else str(index) for index, image in batch]
            read = [self.read(image, name) for name, (_, image) in zip(names, batch, strict=True)]
            pixels = [image for image in read if not isinstance(image, DataError)]
            rows = iter(self.probabilities(np.stack(pixels)) if pixels else ())
            for name, image in zip(names, read, strict=True):
                if isinstance(image, DataError):
                    yield Prediction(name, (), (), str(image))
                    continue
                row = next(rows)
                order = np.argsort(-row, kind="stable")[:top]
                classes = tuple(self.class_names[index] for index in order)
                yield Prediction(name, classes, tuple(float(row[index]) for index in order))

    def said(self) -> tuple[str, ...]:
        """Say what was done to the images read so far, as evaluation does: other sizes, colours turned to grey."""
        sizes = describe_sizes(self.trained, self._sizes)
        if not self._greyed:
            return sizes
        images = "1 image" if self._greyed == 1 else f"{self._greyed:,} images"
        return (*sizes, f"{images} in colours turned to grey: the network takes 1 channel")

    def read(self, image: Image, name: str) -> np.ndarray | DataError:
        """Return an image as the network takes it, uint8 (H, W, C), or why it cannot be read.

        Args:
            image: see :data:`Image`.
            name: what to call it in messages.
        """
        height, width, channels = self.trained.card.image_shape
        try:
            if isinstance(image, np.ndarray):
                stored, colours = _checked(image, channels, name), False
            else:
                where = str(user_path(image)) if isinstance(image, str | Path) else f"image {name}"
                data = image if isinstance(image, bytes) else _read_bytes(Path(where))
                stored = decode_image(data, channels, where)
                colours = channels == 1 and has_colours(decode_image(data, 3, where))
            found = self.trained.geometry.eval_image(stored)
        except DataError as error:
            return error
        if found.shape[:2] != (height, width):
            return DataError(
                f"{name} has {found.shape[0]}x{found.shape[1]} pixels (height x width), and {self.trained.path} takes "
                f"{height}x{width}: no rule brings images to a size that is not square"
            )
        self._greyed += colours
        self._sizes.add((stored.shape[0], stored.shape[1]))
        return found


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


def _checked(pixels: np.ndarray, channels: int, name: str) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != channels:
        raise DataError(
            f"image {name}: pixels must be uint8 (height, width, {channels}), got {pixels.dtype} {pixels.shape}"
        )
    return pixels


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
