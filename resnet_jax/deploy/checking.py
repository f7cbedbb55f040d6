"""What was written against the network it was written of: the same outputs, or it is not kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from resnet_jax.deploy.artefact import Artefact
from resnet_jax.deploy.function import NetworkFunction
from resnet_jax.errors import CheckError

#: Examples of the batches that are tried.
BATCHES = (1, 3, 8)


def largest_difference(artefact: Artefact, network: NetworkFunction, batches: Sequence[int] = BATCHES) -> float:
    """Return the largest difference between the outputs of an artefact and those of its network.

    Of every output it is the largest difference of any number, as a share of the largest number of that output in its
    size. Tried are batches of several sizes, and inputs of a second size if the artefact takes any.

    Args:
        artefact: what was written.
        network: what it was written of, with the same kind of input.
        batches: examples of the batches.
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
    """Return the largest difference of two arrays, or dicts of arrays, as a share of the largest number of ours.

    Other shapes or names, and what is not a number, differ by infinity.

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
    """Refuse what differs.

    Args:
        differences: of :func:`largest_difference`, by runtime.
        tolerance: the largest that is allowed.
        what: was written, for the message.

    Raises:
        CheckError: in a runtime the difference is larger.
    """
    for runtime, apart in differences.items():
        if not apart <= tolerance:
            raise CheckError(
                f"{what} differs from the network: in {runtime} by {apart:.1e} of the largest output, and "
                f"{tolerance:g} is allowed (--tolerance); it is not kept",
                {"differences": dict(differences), "tolerance": tolerance},
            )
