"""The gradients of several tasks in one step: one forward pass and one backward pass per task; compared and combined.

A task with several parts (:class:`resnet_jax.tasks.multitask.Multitask`) has one loss per part; the step minimizes
their sum. Two features need the gradient of each part, called a task here, separately:

* the **cosine** between the gradients of two tasks at the parameters of a block, measured in probed steps: 1 where both
  agree, 0 where they are independent, -1 where each undoes the other's step;
* **PCGrad** (Yu et al. 2020, arXiv 2001.06782, algorithm 1): where the inner product of two tasks' gradients is
  negative, each loses its component along the other before they are added.

With several devices or micro-batches, every task's gradient is first computed for the whole batch: both features work
on means.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from resnet_jax.instrument.hooks import BlockIndex
from resnet_jax.models.paths import HEAD
from resnet_jax.tasks.task import Task

PyTree = Any

#: Folded into the key of a step for the order in which PCGrad projects.
ORDER = 0x9C6
#: Names of what tasks do not share.
_OWN = re.compile(rf"(?:.*/)?(?:{HEAD}|classifier(?:_\w+)?)/.+")


def task_names(task: Task) -> tuple[str, ...]:
    """Return the names of the tasks that a task has losses for; empty for a task with one loss."""
    return tuple(getattr(task, "task_names", ()))


def losses_of(task: Any, outputs: Any, batch: Mapping[str, Array]) -> list[Array]:
    """Return the loss of every example for each task, (N,) each, in the order of :func:`task_names`."""
    return list(task.task_losses(outputs, batch).values())


def task_pairs(task: Task) -> tuple[tuple[str, str], ...]:
    """Return the pairs of tasks whose gradients a probed step compares, in the order of its ``task_cosine``."""
    return tuple(itertools.combinations(task_names(task), 2))


def projects(task: Task) -> bool:
    """Return whether the gradients of the tasks are combined by PCGrad."""
    return bool(task_names(task)) and getattr(task, "weighting", None) == "pcgrad"


def value_and_task_gradients(losses: Callable[..., Any], *, whole: bool) -> Callable[..., Any]:
    """Return ``(trained, ...) -> ((loss, aux), gradients)`` with one forward pass and one backward pass per task.

    Args:
        losses: ``(trained, ...) -> ((tasks,), aux)``: the mean loss of each task.
        whole: whether the gradient of the sum of the losses is also needed, from a separate backward pass.

    Returns:
        The function. Its gradients contain those of the sum, if requested, under the names of ``trained``, and for task
        k its gradient of the parameters under ``task k``; :func:`own_gradients` extracts them.
    """

    def value_and_gradients(trained: Any, *rest: Any) -> Any:
        values, pull, aux = jax.vjp(lambda trained: losses(trained, *rest), trained, has_aux=True)
        found = {_name(k): pull(row)[0]["params"] for k, row in enumerate(jnp.eye(len(values), dtype=values.dtype))}
        if whole:
            found = {**pull(jnp.ones_like(values))[0], **found}
        return (jnp.sum(values), aux), found

    return value_and_gradients


def like_gradients(trained: Mapping[str, Any], tasks: int, *, whole: bool) -> dict[str, Any]:
    """Return a tree with the structure of the gradients of :func:`value_and_task_gradients`, filled with parameters."""
    own = {_name(k): trained["params"] for k in range(tasks)}
    return {**(trained if whole else {}), **own}


def own_gradients(grads: Mapping[str, Any], tasks: int) -> list[PyTree]:
    """Return the gradient of each task."""
    return [grads[_name(k)] for k in range(tasks)]


def _name(task: int) -> str:
    return f"task {task}"


def pcgrad(gradients: Sequence[PyTree], key: Key[Array, ""]) -> PyTree:
    """Return the sum of the tasks' gradients, each projected by PCGrad on the parameters that tasks share.

    Parameters of a head (paths containing ``head`` or ``classifier``) keep the plain sum. Every projected gradient is a
    weighted sum of the tasks' own, so the whole procedure works on their inner products, a (tasks, tasks) matrix, and
    the gradients themselves are read twice.

    Args:
        gradients: gradients of the parameters, one per task.
        key: key for the orders in which a task is projected against the others.
    """
    flat = [jax.tree_util.tree_flatten_with_path(tree) for tree in gradients]
    shape = flat[0][1]
    shared = [not _OWN.fullmatch(jax.tree_util.keystr(path, simple=True, separator="/")) for path, _ in flat[0][0]]
    leaves = [[leaf for _, leaf in found] for found, _ in flat]
    count = len(gradients)
    products = [[jnp.zeros(())] * count for _ in range(count)]
    for i, j in itertools.combinations_with_replacement(range(count), 2):
        parts = [_inner(a, b) for a, b, both in zip(leaves[i], leaves[j], shared, strict=True) if both]
        products[i][j] = products[j][i] = sum(parts, jnp.zeros(()))
    weights = projected_weights(jnp.stack([jnp.stack(row) for row in products]), key)
    combined = []
    for both, *each in zip(shared, *leaves, strict=True):
        if both:
            each = [weights[k].astype(leaf.dtype) * leaf for k, leaf in enumerate(each)]
        combined.append(sum(each[1:], each[0]))
    return jax.tree.unflatten(shape, combined)


def projected_weights(products: Float[Array, "tasks tasks"], key: Key[Array, ""]) -> Float[Array, " tasks"]:
    """Return the weights of the tasks' gradients in the sum that PCGrad computes.

    Args:
        products: inner products of the gradients.
        key: every task is projected against the others in its own random order.

    Two gradients at an angle of 135 degrees, (1, 0) and (-1, 1): each loses its component along the other.

    >>> projected_weights(jnp.array([[1.0, -1.0], [-1.0, 2.0]]), jax.random.key(0)).tolist()
    [2.0, 1.5]
    """
    count = products.shape[0]
    squares = jnp.diagonal(products)

    def projected(task: int) -> Array:
        order = jax.random.permutation(jax.random.fold_in(key, task), count)
        mix = jnp.zeros(count, products.dtype).at[task].set(1.0)
        for place in range(count):
            other = order[place]
            inner = jnp.sum(mix * products[:, other])
            conflicts = (inner < 0) & (other != task)  # the square is then above 0
            along = jnp.where(conflicts, inner / jnp.where(squares[other] > 0, squares[other], 1.0), 0.0)
            mix = mix.at[other].add(-along)
        return mix

    return sum((projected(task) for task in range(1, count)), projected(0))


def block_cosines(chart: BlockIndex, gradients: Sequence[PyTree]) -> Float[Array, "blocks pairs"]:
    """Return the cosine between the gradients of every two tasks at the parameters of every block, in depth order.

    Args:
        chart: chart of the blocks.
        gradients: gradients of the parameters, one per task.

    Returns:
        (blocks, pairs), with pairs as in :func:`task_pairs`; NaN where a gradient is 0, or a block has no parameters.
    """
    rows = []
    for path, count in zip(chart.paths, chart.counts, strict=True):
        parts = [jax.tree.leaves(_below(tree, path)) for tree in gradients]

        def product(i: int, j: int, parts: list[list[Array]] = parts, count: int | None = count) -> Array:
            return sum(
                (_inner(a, b, count) for a, b in zip(parts[i], parts[j], strict=True)),
                jnp.zeros(() if count is None else (count,)),
            )

        squares = [product(k, k) for k in range(len(gradients))]
        pairs = []
        for i, j in itertools.combinations(range(len(gradients)), 2):
            size = jnp.sqrt(squares[i]) * jnp.sqrt(squares[j])
            pairs.append(jnp.where(size > 0, product(i, j) / jnp.where(size > 0, size, 1.0), jnp.nan))
        rows.append(jnp.stack(pairs, axis=-1).reshape(count or 1, -1))
    return jnp.concatenate(rows)


def _below(tree: PyTree, path: tuple[str, ...]) -> PyTree:
    """Return the parameters below a module; empty for a module without any."""
    for name in path:
        tree = tree.get(name, {}) if isinstance(tree, Mapping) else {}
    return tree


def _inner(a: Array, b: Array, count: int | None = None) -> Array:
    """Return the inner product in float32 or wider; for stacked blocks (count, ...), one for each."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    both = a.astype(wide) * b.astype(wide)
    return jnp.sum(both) if count is None else jnp.sum(both.reshape(count, -1), axis=-1)
