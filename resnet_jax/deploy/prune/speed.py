"""Time networks side by side, in turns and prepared for inference, so that all meet the same machine load."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.prepare import prepare_for_inference


@dataclasses.dataclass(frozen=True)
class Speed:
    """Time per batch.

    Attributes:
        seconds: median over the rounds.
        speedup: median over the rounds of the first network's time divided by this network's time in the same round.
        rounds: seconds per batch in each round.
    """

    seconds: float
    speedup: float
    rounds: tuple[float, ...]


def time_in_turns(
    networks: Sequence[tuple[ResNet, dict[str, Any]]],
    input_shape: Sequence[int],
    *,
    batch: int = 64,
    rounds: int = 7,
    seconds: float = 0.5,
) -> list[Speed]:
    """Time networks on the default device, in turns in every round, with random images that are already on the device.

    Batch norms are folded and kernels are packed, as in ``predict``, ``serve`` and ``bench infer``.

    Args:
        networks: models and their variables; the first is the reference for the others.
        input_shape: shape of an image.
        batch: images per call.
        rounds: number of turns.
        seconds: approximate time for each network in each round.
    """
    shape = (batch, *input_shape)
    images = jax.device_put(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    calls = [_compiled(model, variables, images) for model, variables in networks]
    counts = [max(1, round(seconds / _time(call, 3))) for call in calls]
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, count, times in zip(calls, counts, found, strict=True):
            times.append(_time(call, count))
    first = np.asarray(found[0])
    return [Speed(float(np.median(t)), float(np.median(first / np.asarray(t))), tuple(t)) for t in found]


def _compiled(model: ResNet, variables: dict[str, Any], images: jax.Array) -> Callable[[], Any]:
    fast, prepared = prepare_for_inference(model, variables, images.shape[1:])
    program = jax.jit(lambda variables, images: fast.apply(variables, images, train=False))
    compiled = program.lower(prepared, images).compile()
    return lambda: compiled(prepared, images)


def _time(call: Callable[[], Any], count: int) -> float:
    """Return seconds per call, after one untimed call that warms the caches."""
    jax.block_until_ready(call())
    began = time.perf_counter()
    for _ in range(count - 1):
        call()
    jax.block_until_ready(call())
    return (time.perf_counter() - began) / count
