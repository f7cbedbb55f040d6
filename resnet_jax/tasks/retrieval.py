"""Retrieval of one side by embeddings of the other: recall at k, and classification by class means.

Everything here is NumPy over a whole data set, in chunks of rows, so that the similarities of all pairs need not be in
memory at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: The values of k for recall at k.
RANKS = (1, 5, 10)
_ROWS = 1024


def recalls(queries: np.ndarray, gallery: np.ndarray, labels: np.ndarray) -> dict[str, dict[int, np.ndarray]]:
    """Return whether a correct item is among the k nearest of each query.

    By ``pair``, only the query's own partner is correct, row i for row i; by ``class``, anything of its class is. Among
    equal similarities the partner ranks last, so that embeddings that are all the same find nothing.

    Args:
        queries: (N, d), of length 1.
        gallery: (N, d), the partners in the same order.
        labels: (N,), of both.

    Returns:
        ``pair`` and ``class`` -> k -> bool (N,).

    >>> x, y = np.eye(3), np.eye(3)[[0, 2, 1]]
    >>> found = recalls(x, y, np.array([0, 1, 1]))
    >>> found["pair"][1].tolist(), found["class"][1].tolist()
    ([True, False, False], [True, True, True])
    """
    found = {by: {k: np.zeros(len(queries), bool) for k in RANKS} for by in ("pair", "class")}
    for rows, scores in _scores(queries, gallery):
        own = np.take_along_axis(scores, rows[:, None], axis=1)
        before = (scores >= own).sum(axis=1) - 1
        most = min(max(RANKS), scores.shape[1])
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, :most]
        same = labels[nearest] == labels[rows][:, None]
        for k in RANKS:
            found["pair"][k][rows] = before < k
            found["class"][k][rows] = same[:, :k].any(axis=1)
    return found


def _scores(queries: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(queries), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(queries)))
        yield rows, queries[rows] @ gallery.T


def prototypes(embeddings: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the mean of every class, scaled to length 1, float64 (K, d); 0 for a class without examples.

    Args:
        embeddings: (N, d).
        labels: (N,).
        classes: K.
    """
    sums = np.zeros((classes, embeddings.shape[1]))
    np.add.at(sums, labels, embeddings.astype(np.float64))
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.divide(sums, length, out=np.zeros_like(sums), where=length > 0)


def zero_shot(
    image: np.ndarray, other: np.ndarray, labels: np.ndarray, classes: int, scale: float
) -> dict[str, np.ndarray]:
    """Return the probabilities of the classes for each side alone, and for both together.

    Each side is classified by the class means of the **other** side (its own labels are not used): the softmax of the
    scaled similarities, as in CLIP with means instead of texts. ``both`` is the mean of the two (late fusion).

    Args:
        image: (N, d), of length 1.
        other: (N, d).
        labels: (N,), of both; they give the class means.
        classes: K.
        scale: 1 / temperature.

    Returns:
        ``image``, ``other`` and ``both`` -> (N, K).
    """
    means = {"image": prototypes(other, labels, classes), "other": prototypes(image, labels, classes)}
    sides = {"image": image, "other": other}
    found = {side: _softmax(scale * sides[side].astype(np.float64) @ means[side].T) for side in sides}
    return {**found, "both": (found["image"] + found["other"]) / 2}


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
