"""The randomization check: a map that does not change when the network's weights are randomized explains nothing."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from resnet_jax.deploy.explain.forward import FINAL, layers_of


class Similarities(NamedTuple):
    """How similar the maps of a network are to those of the same network with more and more of its weights randomized.

    Attributes:
        parts: the part randomized in each step, in addition to those of the steps before, from the top down.
        values: rank correlation of the maps, float64 (parts, N): 1 for identical ranks, 0 for unrelated maps.
    """

    parts: tuple[str, ...]
    values: np.ndarray


def randomization_check(
    explain: Callable[[Any], Any],
    variables: Mapping[str, Any],
    parts: Sequence[str],
    key: jax.Array,
) -> Similarities:
    """Compare maps with those of the network with randomized weights, cascading from the top.

    J. Adebayo et al. 2018, *Sanity Checks for Saliency Maps* (arXiv 1810.03292, section 3.1). The similarity is
    Spearman's rank correlation of absolute values, as in their figure 4.

    Args:
        explain: variables -> maps (N, *sides); called once for each part and once for the network itself. Pass a
            compiled function: variables of the same shapes need no other program.
        variables: variables of the network.
        parts: names from :func:`parts_of`.
        key: PRNG key of the permutations.
    """
    own = np.abs(np.asarray(explain(variables)))
    found = [
        rank_correlation(own, np.abs(np.asarray(explain(changed)))) for _, changed in cascade(variables, parts, key)
    ]
    return Similarities(tuple(parts), np.stack(found))


def parts_of(model: Any, variables: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the parts of a network in the order of the cascade: the head, the stages from the last, the stem.

    For a network that is not a :class:`~resnet_jax.models.ResNet`, these are the modules directly below it, the last
    one first.
    """
    names = [name for name in layers_of(model) if name != FINAL]
    known = [name for name in names if name in variables["params"]]
    others = [name for name in variables["params"] if name not in known]
    return (*reversed(others), *reversed(known))


def cascade(variables: Mapping[str, Any], parts: Sequence[str], key: jax.Array) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each part, and the variables with it and all parts before it randomized."""
    changed = {collection: dict(tree) for collection, tree in variables.items()}
    for part in parts:
        for collection, tree in changed.items():
            if part in tree:
                tree[part] = permuted(tree[part], jax.random.fold_in(key, zlib.crc32(f"{collection}/{part}".encode())))
        yield part, {collection: dict(tree) for collection, tree in changed.items()}


def permuted(tree: Any, key: jax.Array) -> Any:
    """Return arrays with the values of each in random order.

    This removes what was learned, while weights and signals keep about their size, whatever the network's
    initialization. A single number is unchanged.
    """
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    mixed = [
        jax.random.permutation(one, leaf.reshape(-1), independent=False).reshape(leaf.shape)
        for one, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, mixed)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of each row of two arrays (N, ...), float64 (N,).

    Equal values get the mean of their ranks. For a constant row the correlation is 0: a flat map resembles none.

    >>> rank_correlation(np.array([[1, 2, 3], [1, 1, 1]]), np.array([[10, 20, 15], [1, 2, 3]])).tolist()
    [0.5, 0.0]
    """
    found = []
    for row, another in zip(one.reshape(len(one), -1), other.reshape(len(other), -1), strict=True):
        a, b = (_ranks(values) - (values.size - 1) / 2 for values in (row, another))
        length = np.sqrt((a * a).sum() * (b * b).sum())
        found.append(float((a * b).sum() / length) if length > 0 else 0.0)
    return np.array(found)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of values (n,), from 0, float64; equal values get the mean of their ranks."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1) / 2
