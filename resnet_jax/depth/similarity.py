"""Similarity of blocks: how a representation changes on its way through the network, and what can be decoded from it.

:func:`linear_cka` compares the outputs of all pairs of blocks, :func:`linear_probes` classifies from each of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from resnet_jax.depth.arrays import load_arrays, save_arrays
from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import BlockIndex, BlockNames, Hook, index_blocks, instrumented
from resnet_jax.models.collections import SIGNALS
from resnet_jax.ops import at_least_float32

_GRAM, _POOLED = "gram", "pooled"


Kept = TypeVar("Kept")


class _Kept:
    """A result that can be saved to an npz file and read back."""

    def save(self, path: str | Path) -> None:
        """Write an npz file: one array per attribute, and ``about`` as JSON text."""
        save_arrays(self, path)

    @classmethod
    def load(cls: type[Kept], path: str | Path) -> Kept:
        """Read the result of :meth:`save`.

        Raises:
            UsageError: the file is of another kind.
        """
        return load_arrays(cls, path)


@dataclasses.dataclass(frozen=True)
class Similarity(_Kept):
    """Similarity of the outputs of all pairs of blocks.

    Attributes:
        names: path of each block, in depth order.
        stage: stage of each block, from 0, int ``(blocks,)``.
        cka: CKA of each pair, float64 ``(blocks, blocks)``, symmetric, with ones on the diagonal.
        about: what was measured.
    """

    names: tuple[str, ...]
    stage: np.ndarray
    cka: np.ndarray
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LinearProbes(_Kept):
    """Accuracy of a linear classifier on the pooled output of each block.

    Attributes:
        names: path of each block, in depth order.
        stage: stage of each block, from 0, int ``(blocks,)``.
        features: channels of each block's output, int ``(blocks,)``.
        train_accuracy: accuracy on the training images, ``(blocks,)``.
        test_accuracy: accuracy on the test images, ``(blocks,)``.
        about: what was measured.
    """

    names: tuple[str, ...]
    stage: np.ndarray
    features: np.ndarray
    train_accuracy: np.ndarray
    test_accuracy: np.ndarray
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


def unbiased_hsic(grams: Float[ArrayLike, "blocks n n"]) -> np.ndarray:
    """Return the unbiased HSIC of all pairs of Gram matrices over the same n examples, float64 ``(blocks, blocks)``.

    Song et al. 2012 (JMLR 13), eq. 5; Nguyen et al. 2021 (arXiv 2010.15327), eq. 3. With zero diagonals of K and L::

        (tr(K L) + (1'K1)(1'L1) / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K L1) / (n (n - 3))

    Its expectation does not depend on n, so the mean over small batches estimates the value for all examples together.

    Raises:
        UsageError: fewer than 4 examples.
    """
    k = np.array(grams, np.float64)
    n = k.shape[-1]
    if n < 4:
        raise UsageError(f"the unbiased HSIC needs batches of at least 4 examples, got {n}")
    k[:, np.arange(n), np.arange(n)] = 0
    flat, rows = k.reshape(len(k), -1), k.sum(axis=2)
    total = rows.sum(axis=1)
    whole = flat @ flat.T + np.outer(total, total) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T
    return whole / (n * (n - 3))


def linear_cka(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[Float[ArrayLike, "n *spatial c"]],
    *,
    anatomy: BlockNames | None = None,
) -> Similarity:
    """Compare the outputs of all pairs of blocks by linear centered kernel alignment.

    Kornblith et al. 2019 (arXiv 1905.00414), with the minibatch estimator of Nguyen et al. 2021 (arXiv 2010.15327,
    eq. 2)::

        CKA(X, Y) = mean HSIC(XX', YY') / sqrt(mean HSIC(XX', XX') mean HSIC(YY', YY'))

    where the means are over batches and HSIC is :func:`unbiased_hsic`. Memory is that of one batch, and the estimate
    does not depend on its size, though it may be slightly outside [0, 1]. Outputs are flattened over positions and
    channels; 1 means equal up to rotation and scale. Batch norm uses its running averages.

    Args:
        model: a Linen module called as ``model(x, train=...)``.
        variables: ``params`` and, with batch norm, ``batch_stats``, in the layout of the network's execution.
        batches: batches of at least 4 images each, preferably of one size: each size compiles once.
        anatomy: what a block is; None: this library's.

    Raises:
        UsageError: the network has no such blocks, there are no batches, or one has fewer than 4 images.

    >>> from resnet_jax.models import create_model, init_variables
    >>> model = create_model("resnet20_cifar", stage_sizes=(1, 1), widths=(4, 8))
    >>> images = jax.random.normal(jax.random.key(1), (8, 8, 8, 3))
    >>> variables = jax.jit(lambda key: init_variables(model, key, (8, 8, 3)))(jax.random.key(0))
    >>> linear_cka(model, variables, [images]).cka.shape
    (2, 2)
    """
    measure = _collect(model, _GRAM, BlockNames() if anatomy is None else anatomy)
    total, chart, images, count = np.zeros(()), None, 0, 0
    for batch in batches:
        grams, chart = measure(variables, batch)
        total = total + unbiased_hsic(np.stack(grams))
        images, count = images + len(grams[0]), count + 1
    if chart is None:
        raise UsageError("linear_cka needs at least one batch of images")
    norms = np.sqrt(np.maximum(np.diagonal(total), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        cka = total / np.outer(norms, norms)
    return Similarity(chart.names, chart.stages, cka, {"images": images, "batches": count})


def linear_probes(
    model: nn.Module,
    variables: Mapping[str, Any],
    train_images: Float[ArrayLike, "n *spatial c"],
    train_labels: ArrayLike,
    test_images: Float[ArrayLike, "m *spatial c"],
    test_labels: ArrayLike,
    *,
    ridge: float = 1e-3,
    batch: int = 128,
    anatomy: BlockNames | None = None,
) -> LinearProbes:
    """Classify from the output of every block, averaged over positions (Alain and Bengio 2016, arXiv 1610.01644).

    The classifier is :func:`fit_ridge` on standardized features. It has a closed form, so nothing needs tuning and two
    networks are comparable. Batch norm uses its running averages.

    Args:
        model: a Linen module called as ``model(x, train=...)``.
        variables: ``params`` and, with batch norm, ``batch_stats``, in the layout of the network's execution.
        train_images: normalized images to fit on.
        train_labels: their classes, from 0.
        test_images: normalized images to test on.
        test_labels: their classes.
        ridge: penalty, relative to the number of training images.
        batch: number of images computed together.
        anatomy: what a block is; None: this library's.

    Raises:
        UsageError: the network has no such blocks, or there is not one label per image.
    """
    labels = {"training": np.asarray(train_labels), "test": np.asarray(test_labels)}
    images = {"training": np.asarray(train_images), "test": np.asarray(test_images)}
    for part in labels:
        if len(images[part]) != len(labels[part]) or labels[part].ndim != 1 or not len(labels[part]):
            raise UsageError(
                f"{len(images[part])} {part} images and labels of shape {labels[part].shape}: probes need one class "
                "for each image"
            )
    if batch < 1:
        raise UsageError(f"batch={batch}: at least one image is computed at a time")
    measure = _collect(model, _POOLED, BlockNames() if anatomy is None else anatomy)
    features, chart = {}, None
    for part, inputs in images.items():
        pooled = []
        size = min(batch, len(inputs))
        for first in range(0, len(inputs), size):
            index = np.minimum(np.arange(first, first + size), len(inputs) - 1)
            rows, chart = measure(variables, inputs[index])
            pooled.append(rows)
        features[part] = [np.concatenate(block)[: len(inputs)] for block in zip(*pooled, strict=True)]
    assert chart is not None
    classes = 1 + max(int(part.max()) for part in labels.values())
    accuracy = {"training": [], "test": []}
    for train, test in zip(features["training"], features["test"], strict=True):
        mean, std = train.mean(axis=0), train.std(axis=0)
        std = np.where(std > 0, std, 1.0)
        scaled = {"training": (train - mean) / std, "test": (test - mean) / std}
        weight, bias = fit_ridge(scaled["training"], np.eye(classes)[labels["training"]], ridge)
        for part, x in scaled.items():
            accuracy[part].append(np.mean(np.argmax(x @ weight + bias, axis=1) == labels[part]))
    return LinearProbes(
        chart.names, chart.stages, np.asarray([block.shape[1] for block in features["test"]]),
        np.asarray(accuracy["training"]), np.asarray(accuracy["test"]),
        {"ridge": ridge, "training_images": len(images["training"]), "test_images": len(images["test"])},
    )  # fmt: skip


def fit_ridge(
    features: Float[ArrayLike, "n d"], targets: Float[ArrayLike, "n k"], ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight ``(d, k)`` and bias ``(k,)`` that minimize mean squared error plus ``ridge`` times the squared
    weight.

    The bias is not penalized.

    Raises:
        UsageError: ``ridge`` is not positive.
    """
    if ridge <= 0:
        raise UsageError(f"ridge={ridge}: the penalty must be positive")
    x, y = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    mean, target = x.mean(axis=0), y.mean(axis=0)
    x = x - mean
    weight = np.linalg.solve(x.T @ x + ridge * len(x) * np.eye(x.shape[1]), x.T @ (y - target))
    return weight, target - mean @ weight


def _output_signal(name: str) -> Hook:
    """Return a hook that writes the batch's Gram matrix, or the mean over positions, for every block's output."""

    def at(block: nn.Module, point: str, x: Array) -> Array:
        if point != "output" or not block.is_mutable_collection(SIGNALS):
            return x
        wide = x.astype(at_least_float32(x.dtype))
        if name == _POOLED:
            block.put_variable(SIGNALS, name, jnp.mean(wide, axis=tuple(range(1, x.ndim - 1))))
        else:
            flat = wide.reshape(len(x), -1)
            flat = flat - jnp.mean(flat, axis=0, keepdims=True)  # HSIC is invariant to it, and rounding errors shrink
            block.put_variable(SIGNALS, name, jnp.matmul(flat, flat.T, precision="highest"))
        return x

    return at


@functools.lru_cache(maxsize=8)
def _collect(model: nn.Module, name: str, anatomy: BlockNames) -> Callable[..., tuple[list[np.ndarray], BlockIndex]]:
    """Return a function of variables and images that returns what the hook writes, one array per block in depth
    order.
    """
    charts: list[BlockIndex] = []

    def measure(variables, images):
        def apply(mutable):
            return model.apply(variables, images, train=False, mutable=mutable)

        chart = index_blocks(apply, anatomy)
        charts.append(chart)
        with instrumented(anatomy, _output_signal(name)):
            signals = apply([SIGNALS])[1][SIGNALS]
        found = []
        for path, count in zip(
            chart.paths, chart.counts, strict=True
        ):  # widths differ, so BlockIndex.rows cannot join them
            node = signals
            for part in (*path, name):
                node = node[part]
            found += [node] if count is None else list(node)
        return found

    compiled = jax.jit(measure)

    def call(variables, images):
        found = jax.device_get(compiled(variables, jnp.asarray(images)))
        return found, charts[-1]

    return call
