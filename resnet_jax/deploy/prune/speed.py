"""Networks timed side by side: in turns, each as it is prepared for inference, so that all meet the same machine."""

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
    """How long a batch takes.

    Attributes:
        seconds: median over the rounds.
        speedup: median over the rounds of the first network's time over this one's, of the same round.
        rounds: seconds of a batch in each round.
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
    """Time networks on the default device, one after the other in every round; of random images on the device.

    Batch norm is folded and kernels are packed, as ``predict``, ``serve`` and ``bench infer`` compute.

    Args:
        networks: models and their variables; the first is what the others are compared with.
        input_shape: of an image.
        batch: images of a call.
        rounds: turns.
        seconds: that a network is timed for in each round, about.
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
    """Return seconds a call; the one before, which finds cold caches, is not timed."""
    jax.block_until_ready(call())
    began = time.perf_counter()
    for _ in range(count - 1):
        call()
    jax.block_until_ready(call())
    return (time.perf_counter() - began) / count
