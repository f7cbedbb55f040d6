"""The targets of a loss: one array of labels, or several by name, each with a row for every example."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.ops.annotations import Targets


def require_one_each(images: Any, labels: Targets, what: str) -> None:
    """Reject targets that are not one per image.

    Args:
        images: ``(n, ...)``.
        labels: the targets.
        what: what needs them, such as ``profile needs``.

    Raises:
        UsageError: the numbers differ; the message has both.

    >>> require_one_each(np.zeros((2, 4)), {"label": np.zeros(2), "segmentation": np.zeros((2, 4))}, "profile needs")
    """
    for length in {np.shape(leaf)[0] for leaf in jax.tree.leaves(labels)}:
        if length != len(images):
            raise UsageError(f"{len(images)} images and {length} labels: {what} one label for each image")


def rows(labels: Targets, start: int, count: int) -> Any:
    """Return the targets of ``count`` examples from ``start`` on, as host arrays; zeros beyond the end."""

    def part(leaf: Any) -> np.ndarray:
        found = np.asarray(leaf[start : start + count])
        missing = count - len(found)
        return np.concatenate([found, np.zeros((missing, *found.shape[1:]), found.dtype)]) if missing else found

    return jax.tree.map(part, labels)
