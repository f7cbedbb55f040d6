"""Measure the variance of signals and the squared norm of gradients through depth at initialization, in any network.

The gradient is that of a random linear function of the last block's output, so that neither loss nor classifier plays a
part. Its squared norm at a block's input, relative to the one at the last block's output, says how much of a gradient
gets through all the blocks above.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Key

from resnet_jax.instrument.hooks import BlockIndex, BlockNames, index_blocks, instrumented, probe
from resnet_jax.models.collections import GATES, PROBES, SIGNALS
from resnet_jax.models.initialize import init_variables
from resnet_jax.models.resnet import ResNet
from resnet_jax.ops import at_least_float32


@dataclasses.dataclass(frozen=True)
class Propagation:
    """What arrives at each depth, for each draw of the weights. Depth d is after d blocks: 0 is the first block's
    input.

    Attributes:
        mean_square: mean square of the signal over examples, positions and channels, ``(draws, blocks + 1)``.
        variance: its variance over the same, ``(draws, blocks + 1)``.
        gradient: squared norm of the gradient with respect to it, relative to the last, ``(draws, blocks + 1)``.
        names: path of every block.
        stage: stage of every block, from 0, ``(blocks,)``.
    """

    mean_square: np.ndarray
    variance: np.ndarray
    gradient: np.ndarray
    names: tuple[str, ...]
    stage: np.ndarray


def measure_propagation(
    model: nn.Module,
    inputs: Array | Sequence[int],
    *,
    key: Key[Array, ""],
    draws: int = 4,
    anatomy: BlockNames | None = None,
    train: bool = True,
) -> Propagation:
    """Draw the weights of ``model`` several times and measure what gets through its blocks, forward and backward.

    Networks of this library run in a loop over their blocks, recompute each in the backward pass, and drop nothing, so
    that neither compile time nor memory grows much with depth.

    Args:
        model: any Linen network called as ``model(x, train=...)``.
        inputs: a batch, or the shape of a batch of independent N(0, 1) numbers, ``(n, *spatial, c)``.
        key: PRNG key for weights, inputs and the linear functions.
        draws: number of draws of the weights.
        anatomy: what a block is; None: this library's.
        train: the mode in which the network is called.

    Raises:
        UsageError: the network has no such blocks.
    """
    anatomy = anatomy or BlockNames()
    model = _lean(model)
    given = None if isinstance(inputs, (tuple, list)) else jnp.asarray(inputs)
    shape = tuple(inputs) if given is None else given.shape
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    init = jax.jit(lambda key: init_variables(model, key, shape[1:]), compiler_options=options)
    keys = jax.random.split(key, (draws, 4))
    chart = _chart(model, jax.eval_shape(init, keys[0, 0]), shape, anatomy, train)
    measure = jax.jit(_measure(model, chart, anatomy, train))
    rows = []
    for of_weights, of_inputs, of_function, of_drops in keys:
        x = jax.random.normal(of_inputs, shape) if given is None else given
        rows.append(jax.device_get(measure(init(of_weights), x, of_function, of_drops)))
    square, variance, gradient = (np.asarray(values, np.float64) for values in zip(*rows, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        gradient = gradient / gradient[:, -1:]
    return Propagation(square, variance, gradient, chart.names, chart.stages)


def _lean(model: nn.Module) -> nn.Module:
    """Return a network of this library in the form that compiles fastest and uses least memory; others are
    unchanged.
    """
    if not isinstance(model, ResNet):
        return model
    return ResNet(
        dataclasses.replace(model.config, execution="scan", remat="block", dropout=0.0, head_dropout=0.0, drop_path=0.0)
    )


def _chart(model: nn.Module, variables: Any, shape: Sequence[int], anatomy: BlockNames, train: bool) -> BlockIndex:
    def apply(mutable: list[str]) -> Any:
        def run(variables, x, drops):
            extra = [name for name in variables if name != "params"]
            return model.apply(variables, x, train=train, mutable=[*mutable, *extra], rngs={"dropout": drops})

        return run(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables), jnp.zeros(shape), key)

    key = jax.random.key(0)
    return index_blocks(apply, anatomy, probe("input", "output"))


def _measure(model: nn.Module, chart: BlockIndex, anatomy: BlockNames, train: bool) -> Callable[..., tuple[Array, ...]]:
    """Return ``(variables, x, key, drops) -> (mean squares, variances, squared gradient norms)``, by depth."""
    last = chart.place({"last": (np.arange(len(chart.names)) == len(chart.names) - 1).astype(np.float32)})

    def measure(variables: Mapping[str, Any], x: Array, key: Array, drops: Array) -> tuple[Array, ...]:
        def note(block: nn.Module, point: str, x: Array) -> Array:
            wide = x.astype(at_least_float32(x.dtype))
            if point in ("input", "output"):
                mean = jnp.mean(wide)
                moments = [jnp.mean(jnp.square(wide)), jnp.mean(jnp.square(wide - mean))]
                block.put_variable(SIGNALS, point, jnp.stack(moments))
            if point == "output":  # after the probe, which sees the gradient that this returns
                weights = jax.random.normal(key, x.shape, wide.dtype) * block.get_variable(GATES, "last")
                block.put_variable(SIGNALS, "function", jnp.sum(weights * wide))
            return x

        def function(probes: Any) -> tuple[Array, Any]:
            mutable = [SIGNALS, *(name for name in variables if name != "params")]
            everything = {**variables, PROBES: probes, GATES: last}
            with instrumented(anatomy, probe("input", "output"), note):
                _, found = model.apply(everything, x, train=train, mutable=mutable, rngs={"dropout": drops})
            return jnp.sum(chart.rows(found[SIGNALS], "function")), found[SIGNALS]

        norms, signals = jax.grad(function, has_aux=True)(chart.zeros)
        gradients = jnp.append(chart.rows(norms, "input"), chart.rows(norms, "output")[-1])
        moments = jnp.concatenate([chart.rows(signals, "input")[:1], chart.rows(signals, "output")])
        return moments[:, 0], moments[:, 1], gradients

    return measure
