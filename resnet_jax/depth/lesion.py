"""Lesions: what a network loses when blocks are removed or swapped (Veit et al. 2016, arXiv 1605.06431).

A network of residual blocks that behaves like an ensemble of paths loses little with any one block and degrades
smoothly with more of them. A plain network loses everything with one (their figures 3 and 5).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array

from resnet_jax.depth.profiling import chart_of, without_drops
from resnet_jax.depth.targets import require_one_each, rows
from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import BlockIndex, BlockNames, Hook, instrumented
from resnet_jax.models import layout
from resnet_jax.models.collections import GATES
from resnet_jax.ops.annotations import Images, Targets
from resnet_jax.tasks.losses import Loss, cross_entropy

_KEEP = "keep"

#: Whether the outputs are correct for each example, ``(outputs, labels) -> bool (N,)``.
Right = Callable[[Any, Any], Array]


def is_class(outputs: Array, labels: Array) -> Array:
    """Return whether the largest output is that of the class, bool (N,)."""
    return jnp.argmax(outputs, -1) == labels


@dataclasses.dataclass(frozen=True)
class Deletions:
    """Accuracy and loss of a network without some of its blocks.

    Attributes:
        names: path of every block.
        stages: stage of every block, from 0, int (blocks,).
        whole_accuracy: accuracy of the whole network; like all other accuracies NaN if examples are not right or wrong.
        whole_loss: its mean loss.
        accuracy: without each block alone, (blocks,); NaN where a block cannot be removed because it has no skip and
            changes the shape.
        loss: mean loss without each block alone, (blocks,).
        counts: numbers of blocks removed together, int (counts,).
        several_accuracy: with this many random blocks removed, (counts, draws).
        several_loss: the same, (counts, draws).
        images: number of images evaluated.
    """

    names: tuple[str, ...]
    stages: np.ndarray
    whole_accuracy: float
    whole_loss: float
    accuracy: np.ndarray
    loss: np.ndarray
    counts: np.ndarray
    several_accuracy: np.ndarray
    several_loss: np.ndarray
    images: int


@dataclasses.dataclass(frozen=True)
class Permutations:
    """Accuracy and loss of a network with swapped blocks.

    Attributes:
        swaps: number of random swaps of two blocks of a stage, one after another, int (counts,).
        correlation: Kendall's tau between the new order of the blocks and the original one, (counts, draws).
        accuracy: (counts, draws).
        loss: (counts, draws).
        whole_accuracy: in the original order.
        images: number of images evaluated.
        whole_loss: in the original order.
    """

    swaps: np.ndarray
    correlation: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    whole_accuracy: float
    images: int
    whole_loss: float = float("nan")


def delete_blocks(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Images,
    labels: Targets,
    *,
    counts: Sequence[int] = (),
    draws: int = 8,
    batch_size: int = 256,
    seed: int = 0,
    loss: Loss = cross_entropy,
    right: Right | None = is_class,
    anatomy: BlockNames | None = None,
) -> Deletions:
    """Remove each block alone, and several random ones together, and evaluate what is left.

    A block without its branch is its skip, as in section 4.1 of the paper. A block that has no skip returns its input,
    if the shape permits. Evaluation mode; one program serves all lesions.

    Args:
        model: a Linen module called as ``model(x, train=False)``.
        variables: in the layout of its execution.
        images: normalized images, any number.
        labels: their classes, int (N,), or whatever ``loss`` and ``right`` compare outputs with.
        counts: numbers of blocks to remove together.
        draws: number of random choices for each.
        batch_size: images at a time.
        seed: seed of the choices.
        loss: per-example loss.
        right: whether outputs are correct; None for tasks without a notion of that: pixels, boxes and values.
        anatomy: what a block is; None: this library's.

    Raises:
        UsageError: labels do not fit the images, or counts are not between 1 and the number of blocks.

    >>> from resnet_jax.models import create_model, init_variables
    >>> model = create_model("resnet20_cifar", stage_sizes=(3,), widths=(4,), num_classes=2)
    >>> images = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    >>> variables = jax.jit(lambda key: init_variables(model, key, (8, 8, 3)))(jax.random.key(0))
    >>> found = delete_blocks(model, variables, images, jnp.arange(6) % 2, counts=(2, 3), draws=3)
    >>> found.accuracy.shape, found.several_accuracy.shape
    ((3,), (2, 3))
    """
    score = _Score(model, variables, images, labels, batch_size, (loss, right), anatomy)
    blocks = len(score.chart.names)
    if not all(1 <= count <= blocks for count in counts):
        raise UsageError(f"counts of blocks to take out must be 1 to {blocks}, got {tuple(counts)}")
    whole = score(np.ones(blocks))
    single = np.asarray([score(1.0 - np.eye(blocks)[block]) for block in range(blocks)])
    single[~score.removable] = np.nan
    rng = np.random.default_rng(seed)
    candidates = np.flatnonzero(score.removable)
    several = np.full((len(counts), draws, 2), np.nan)
    for row, count in enumerate(counts):
        for draw in range(draws if count <= len(candidates) else 0):
            keep = np.ones(blocks)
            keep[rng.choice(candidates, count, replace=False)] = 0.0
            several[row, draw] = score(keep)
    return Deletions(
        names=score.chart.names,
        stages=score.chart.stages,
        whole_accuracy=whole[0],
        whole_loss=whole[1],
        accuracy=single[:, 0],
        loss=single[:, 1],
        counts=np.asarray(counts, np.int64),
        several_accuracy=several[..., 0],
        several_loss=several[..., 1],
        images=len(images),
    )


def permute_blocks(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Images,
    labels: Targets,
    *,
    swaps: Sequence[int] = (1, 2, 4, 8, 16),
    draws: int = 8,
    batch_size: int = 256,
    seed: int = 0,
    loss: Loss = cross_entropy,
    right: Right | None = is_class,
) -> Permutations:
    """Swap equal blocks within stages and evaluate (section 4.3): parameters and statistics change places.

    The first block of a stage stays, because in every stage but the first it changes the shape. Arguments as in
    :func:`delete_blocks`.

    Raises:
        UsageError: the network does not have this library's layout, or has no stage with two equal blocks.
    """
    score = _Score(model, variables, images, labels, batch_size, (loss, right), None)
    blocks = len(score.chart.names)
    stages = score.chart.stages
    groups = [np.flatnonzero(stages == stage)[1:] for stage in np.unique(stages)]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        raise UsageError("no stage has two equal blocks after its first: nothing can change places")
    whole = score(np.ones(blocks))
    rng = np.random.default_rng(seed)
    weights = np.asarray([len(group) * (len(group) - 1) for group in groups], np.float64)
    results = np.zeros((len(swaps), draws, 3))
    for row, count in enumerate(swaps):
        for draw in range(draws):
            order = np.arange(blocks)
            for _ in range(count):
                group = groups[rng.choice(len(groups), p=weights / weights.sum())]
                one, other = rng.choice(group, 2, replace=False)
                order[[one, other]] = order[[other, one]]
            moved = reorder(variables, score.chart.names, order)
            results[row, draw] = (_tau(order), *score(np.ones(blocks), moved))
    return Permutations(
        swaps=np.asarray(swaps, np.int64),
        correlation=results[..., 0],
        accuracy=results[..., 1],
        loss=results[..., 2],
        whole_accuracy=whole[0],
        images=len(images),
        whole_loss=whole[1],
    )


def reorder(variables: Mapping[str, Any], names: Sequence[str], order: Iterable[SupportsIndex]) -> dict[str, Any]:
    """Return ``variables`` with block ``order[i]`` in place of block i; blocks that move must have equal shapes."""
    listed = layout.unstack(dict(variables))

    def subtree(tree: Any, name: str) -> Any:
        return functools.reduce(lambda node, part: node.get(part, {}), name.split("/"), tree)

    moved = {collection: jax.tree.map(lambda leaf: leaf, tree) for collection, tree in listed.items()}
    for place, source in enumerate(order):
        for collection, tree in moved.items():
            stage, block = names[place].split("/")
            if block in tree.get(stage, {}):
                tree[stage][block] = subtree(listed[collection], names[int(source)])
    return layout.like(moved, dict(variables))


def _tau(order: np.ndarray) -> float:
    from scipy.stats import kendalltau

    found: Any = kendalltau(np.arange(len(order)), order)
    return float(found.statistic)


def lesion_hook() -> Hook:
    """Return a hook that multiplies branches by ``keep``, and bypasses a block without a skip where it is 0."""
    inputs: dict[tuple[str, ...], Array] = {}
    skipped: set[tuple[str, ...]] = set()

    def at(block: nn.Module, point: str, x: Any) -> Any:
        if not block.has_variable(GATES, _KEEP):
            return x
        keep = block.get_variable(GATES, _KEEP)
        if point == "input":
            inputs[block.path] = x
            skipped.discard(block.path)
        elif point == "skip":
            skipped.add(block.path)
        elif point == "branch":
            return x * keep.astype(x.dtype)
        elif point == "output":
            before = inputs.pop(block.path)
            if block.path not in skipped and before.shape == x.shape:
                return jnp.where(keep > 0, x, before)
        return x

    return at


class _Score:
    """Accuracy and mean loss with some blocks kept, as one compiled program."""

    def __init__(
        self, model, variables, images, labels, batch_size: int, judged: tuple[Loss, Right | None],
        anatomy: BlockNames | None,
    ):  # fmt: skip
        if not len(images):
            raise UsageError("lesions need one image at least")
        require_one_each(images, labels, "lesions need")
        if batch_size < 1:
            raise UsageError(f"batch_size must be 1 or more, got {batch_size}")
        self.model, self.variables = without_drops(model), dict(variables)
        self.anatomy = BlockNames() if anatomy is None else anatomy
        size = min(batch_size, len(images))
        self.batches = [
            (rows(images, start, size), rows(labels, start, size), np.arange(size) < len(images) - start)
            for start in range(0, len(images), size)
        ]
        self.chart = chart_of(self.model, self.variables, images[:size], self.anatomy, train=False)
        self.images = len(images)
        self.removable = self._removable(images[:size])
        self._evaluate = _evaluation(self.model, self.anatomy, self.chart, *judged)

    def __call__(self, keep: np.ndarray, variables: Any = None) -> tuple[float, float]:
        """Return accuracy and mean loss over all images."""
        variables = self.variables if variables is None else variables
        sums = [self._evaluate(variables, np.asarray(keep, np.float32), *batch) for batch in self.batches]
        correct, loss = np.sum(np.asarray(jax.device_get(sums), np.float64), axis=0)
        return float(correct) / self.images, float(loss) / self.images

    def _removable(self, images: Any) -> np.ndarray:
        """Return which blocks have a skip, or an output of the same shape as their input, bool (blocks,)."""
        found: dict[tuple[str, ...], bool] = {}
        shapes: dict[tuple[str, ...], Any] = {}

        def look(block: nn.Module, point: str, x: Array) -> Array:
            if point == "input":
                shapes[block.path], found[block.path] = x.shape, False
            elif point == "skip":
                found[block.path] = True
            elif point == "output":
                found[block.path] |= x.shape == shapes[block.path]
            return x

        def run(variables, images):
            with instrumented(self.anatomy, look):
                self.model.apply(variables, images, train=False)

        jax.eval_shape(run, self.variables, images)
        pairs = zip(self.chart.paths, self.chart.counts, strict=True)
        return np.concatenate([np.full(count or 1, found[path]) for path, count in pairs])


def _evaluation(
    model: nn.Module, anatomy: BlockNames, chart: BlockIndex, loss: Loss, right: Right | None
) -> Callable[..., tuple[Array, Array]]:
    @jax.jit
    def evaluate(variables, keep, images, labels, mask):
        with instrumented(anatomy, lesion_hook()):
            outputs: Any = model.apply({**variables, GATES: chart.place({_KEEP: keep})}, images, train=False)
        correct = jnp.float32(jnp.nan) if right is None else jnp.sum(mask & right(outputs, labels)).astype(jnp.float32)
        return correct, jnp.sum(jnp.where(mask, loss(outputs, labels), 0.0))

    return evaluate
