"""Compare an exported file with its network: unless the outputs are the same, the file is not kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from resnet_jax.deploy.artefact import Artefact
from resnet_jax.deploy.function import NetworkFunction
from resnet_jax.errors import CheckError

#: Batch sizes that are tested.
BATCHES = (1, 3, 8)


def largest_difference(artefact: Artefact, network: NetworkFunction, batches: Sequence[int] = BATCHES) -> float:
    """Return the largest difference between the outputs of an exported file and those of its network.

    For every output this is the largest difference of any element, relative to that output's largest magnitude. It is
    measured on batches of several sizes, and on inputs of a second size if the file accepts any size.

    Args:
        artefact: the exported file.
        network: the network it was made from, with the same kind of input.
        batches: batch sizes.
    """
    compute = jax.jit(lambda variables, images: network(variables, images))
    sides = [network.sides]
    if artefact.preprocessing.any_sides:
        factor = network.downscale
        sides.append(tuple(side + factor * (side // (2 * factor) + 1) for side in network.sides))
    worst = 0.0
    for each in sides:
        for count in batches:
            images = network.examples(count, each)
            ours = jax.device_get(compute(network.variables, images))
            worst = max(worst, difference(artefact.outputs(images), ours))
    return worst


def difference(found: Any, ours: Any) -> float:
    """Return the largest difference of two arrays, or dicts of arrays, relative to the largest magnitude in ``ours``.

    Other shapes or names, and NaN, count as an infinite difference.

    >>> difference(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    0.2
    >>> difference({"a": np.ones(2)}, np.ones(2))
    inf
    """
    if isinstance(ours, Mapping) != isinstance(found, Mapping):
        return float("inf")
    if isinstance(ours, Mapping):
        if set(ours) != set(found):
            return float("inf")
        return max(difference(found[name], ours[name]) for name in ours)
    found, ours = np.asarray(found, np.float64), np.asarray(ours, np.float64)
    if found.shape != ours.shape or not np.isfinite(found).all():
        return float("inf")
    largest = float(np.abs(ours).max(initial=0.0))
    apart = float(np.abs(found - ours).max(initial=0.0))
    return apart / largest if largest else (float("inf") if apart else 0.0)


def require_equal(differences: Mapping[str, float], tolerance: float, what: str) -> None:
    """Raise an error if a difference is too large.

    Args:
        differences: results of :func:`largest_difference`, by runtime.
        tolerance: the largest allowed difference.
        what: what was written, for the message.

    Raises:
        CheckError: the difference is larger in some runtime.
    """
    for runtime, apart in differences.items():
        if not apart <= tolerance:
            raise CheckError(
                f"{what} differs from the network: in {runtime} by {apart:.1e} of the largest output, and "
                f"{tolerance:g} is allowed (--tolerance); it is not kept",
                {"differences": dict(differences), "tolerance": tolerance},
            )
