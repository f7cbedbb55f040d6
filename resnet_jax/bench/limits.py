"""The limits of the machine: its measured arithmetic and memory throughput, against the cost of an image.

The costs of one image (MACs: multiply-adds of :func:`resnet_jax.models.count`; X, Y and R: elements into the
convolutions, out of them, and of the residual sums, :func:`resnet_jax.models.count.count_elements`; b: bytes of an
element of the computation):

=========  ==========  ===================================================================================
           operations  bytes to and from memory
=========  ==========  ===================================================================================
training   6 x MACs    b (3 X + 11 Y + 4 R): convolution and batch norm each read and write for themselves
inference  2 x MACs    b (X + Y + R)
=========  ==========  ===================================================================================

In training, the forward convolution reads x and writes y; the statistics read y; applying them reads y and writes z.
Backward, the sums read dz and y; applying them reads dz and y and writes dy; the input gradient reads dy and writes dx;
the weight gradient reads dy and x. None of this is a strict bound if caches hold the arrays, and an algorithm with
fewer multiplications (Winograd's) may exceed the arithmetic one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.models.count import count, count_elements
from resnet_jax.models.resnet import ResNet

#: Side of the square matrices and size in bytes of the array to copy, by platform: large for the caches, quick to run.
SIZES = {"cpu": (2048, 2**28)}
ACCELERATOR_SIZES = (8192, 2**31)
REPEATS = 5


def image_costs(model: ResNet, input_shape: tuple[int, ...], mode: str) -> dict[str, float]:
    """Return ``flops`` and ``bytes`` of one image."""
    macs, elements = count(model, input_shape).macs, count_elements(model, input_shape)
    width = jnp.dtype(model.config.dtype).itemsize
    if mode == "train":
        passes = 3 * elements.conv_in + 11 * elements.conv_out + 4 * elements.residual
        return {"flops": 6 * macs, "bytes": width * passes}
    return {"flops": 2 * macs, "bytes": width * (elements.conv_in + elements.conv_out + elements.residual)}


def measure_limits(dtype: str) -> dict[str, float]:
    """Measure the default device: ``flops`` per second of a large ``dtype`` matmul, ``bytes`` per second of a copy."""
    side, size = SIZES.get(jax.default_backend(), ACCELERATOR_SIZES)
    matrix = jnp.ones((side, side), dtype)
    matmul = jax.jit(jnp.matmul)
    took = _shortest(lambda: matmul(matrix, matrix))
    flops = 2 * side**3 / took

    add = jax.jit(lambda x: x + 1, donate_argnums=0)  # reads and writes every byte once, in place
    array = jnp.zeros(size // 4, jnp.float32)

    def pass_over() -> Any:
        nonlocal array
        array = add(array)
        return array

    return {"flops": flops, "bytes": 2 * size / _shortest(pass_over)}


def rate_limits(costs: dict[str, float], machine: dict[str, float]) -> dict[str, float]:
    """Return the images per second that arithmetic and memory each allow.

    >>> rate_limits({"flops": 6e9, "bytes": 1e8}, {"flops": 6e11, "bytes": 2e10})
    {'arithmetic': 100.0, 'bandwidth': 200.0}
    """
    return {"arithmetic": machine["flops"] / costs["flops"], "bandwidth": machine["bytes"] / costs["bytes"]}


def _shortest(run: Callable[[], Any]) -> float:
    jax.block_until_ready(run())
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - began)
    return min(times)
