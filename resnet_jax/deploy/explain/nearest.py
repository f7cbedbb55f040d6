"""The training images that a network finds most similar to an image: neighbors by penultimate features."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.records import Records, Subset
from resnet_jax.deploy.explain.forward import network_inputs
from resnet_jax.errors import DataError, UsageError
from resnet_jax.runs.features import Described, Embedder, Feature, features_of, find_images
from resnet_jax.runs.shown_examples import is_unusual
from resnet_jax.runs.sizes import bring_to_size
from resnet_jax.runs.trained import TrainedRun, class_names_of
from resnet_jax.tasks.detection import Detection
from resnet_jax.tasks.segmentation import Segmentation

#: Maximum number of images of a data set to compare; from larger ones, evenly spaced images are used.
MOST = 20_000
#: Number of images computed at a time.
BATCH = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbour:
    """An image close to another one.

    Attributes:
        name: name of the image.
        label: its class, or empty.
        similarity: cosine of the features, at most 1.
        image: as stored.
    """

    name: str
    label: str
    similarity: float
    image: np.ndarray


class Neighbours:
    """The features of a data set's images, computed once.

    Args:
        trained: the network.
        source: a data source; None for the run's own training images.
        most: maximum number of images to compare.

    Raises:
        UsageError: there is no such source, or the network is imported and there is no source.
    """

    def __init__(self, trained: TrainedRun, source: str | None = None, most: int = MOST):
        described = find_images(trained, source)
        if described is None:
            raise UsageError(f"{source}: name a data source, such as folder:PATH or npz:PATH")
        split = next(name for name in ("train", "all", *described.splits) if name in described.splits)
        records: Records = described.splits[split]
        if len(records) > most:
            records = Subset(records, np.arange(most) * len(records) // most)
        whole = not isinstance(trained.task, Segmentation | Detection)  # otherwise classes belong to pixels or boxes
        names, own = described.class_names if whole else (), class_names_of(trained) if whole else ()
        numbered = len(names) == len(own) and all(name.isdecimal() for name in names)
        self.records, self.class_names, self.split = records, own if numbered else names, split
        if is_unusual(trained.card.image_shape):
            self._outputs = functools.partial(_pooled, trained)
            found = list(_features(self._outputs, bring_to_size(trained, records)[0]))
        else:
            embedder = Embedder(trained, buckets=(BATCH,))
            self._outputs = embedder.outputs
            found = list(features_of(embedder, Described({split: records}, described.class_names)))
        self._index = np.array([index for index, each in enumerate(found) if each.values is not None], np.int64)
        if not len(self._index):
            raise DataError(f"no image of {source or trained.path} could be read: there is nothing to compare with")
        self._features = unit(np.stack([each.values for each in found if each.values is not None]))
        self._found = found

    def __len__(self) -> int:
        """Return the number of images that are compared."""
        return len(self._index)

    def of(self, images: np.ndarray, count: int = 6) -> list[list[Neighbour]]:
        """Return the nearest images of each network input (N, *sides, C), nearest first."""
        similar = unit(self._outputs(images)) @ self._features.T
        return [
            [self._neighbour(row, at) for at in best] for row, best in zip(similar, top(similar, count), strict=True)
        ]

    def _neighbour(self, similar: np.ndarray, at: int) -> Neighbour:
        index = int(self._index[at])
        label = self._found[index].label
        named = 0 <= label < len(self.class_names)
        name = self.records.describe(index)
        return Neighbour(
            name, self.class_names[label] if named else "", float(similar[at]), self.records[index]["image"]
        )


def _features(outputs: Callable[[np.ndarray], np.ndarray], records: Records) -> Iterator[Feature]:
    """Yield the features of signals, volumes and images of many bands, which are in memory."""
    labels = np.asarray(records.labels)
    for start in range(0, len(records), BATCH):
        part = range(start, min(start + BATCH, len(records)))
        values = outputs(np.stack([records[index]["image"] for index in part]))
        for index, row in zip(part, values, strict=True):
            yield Feature(records.describe(index), "", int(labels[index]) if labels.ndim == 1 else -1, row)


def _pooled(trained: TrainedRun, images: np.ndarray) -> np.ndarray:
    """Return the classifier's inputs, float32 (N, C), for inputs (N, *sides, C) of any rank."""
    card, model, parts = trained.card, trained.model, []
    size = min(BATCH, len(images))
    for start in range(0, len(images), size):
        part = images[start : start + size]
        filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])  # one program for every batch
        inputs = network_inputs(jnp.asarray(filled), card.mean, card.std, card.downscale, model.config.dtype)
        parts.append(np.asarray(_features_of(model, trained.variables, inputs))[: len(part)])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=0)
def _features_of(model: Any, variables: Any, inputs: jax.Array) -> jax.Array:
    return model.apply(variables, inputs, train=False, method="features")["pooled"].astype(jnp.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows scaled to length 1, float32; rows of length 0 are unchanged."""
    rows = np.asarray(rows, np.float32).reshape(len(rows), -1)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def top(similar: np.ndarray, count: int) -> Sequence[np.ndarray]:
    """Return the positions of the largest values of each row (N, M), in descending order.

    >>> [row.tolist() for row in top(np.array([[0.1, 0.9, 0.5]]), 2)]
    [[1, 2]]
    """
    return [np.argsort(-row, kind="stable")[:count] for row in similar]
