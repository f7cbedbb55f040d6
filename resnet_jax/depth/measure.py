"""Measure mean and mean square of every block's output, in a given network or over random blocks."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array

from resnet_jax.depth.blockwise import nothing_dropped, require_blocks_only, without_place
from resnet_jax.models.block import Block
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.layout import unstack
from resnet_jax.models.plan import BlockInputs, BlockSpec, plan_stages
from resnet_jax.models.resnet import ResNet, Stem
from resnet_jax.ops import at_least_float32
from resnet_jax.ops.annotations import Images


@dataclasses.dataclass(frozen=True)
class Moments:
    """Moments of the output of the stem and of every block, over examples, positions and channels.

    Attributes:
        stem: mean square and mean of the stem's output.
        mean_square: mean square of each block's output, ``(blocks,)`` in depth order.
        mean: mean of each block's output, ``(blocks,)``.
        stage: the stage of each block, from 0, ``(blocks,)``.
    """

    stem: tuple[float, float]
    mean_square: np.ndarray
    mean: np.ndarray
    stage: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Variance of each block's output, ``(blocks,)``."""
        return self.mean_square - np.square(self.mean)

    @property
    def stage_starts(self) -> tuple[int, ...]:
        """Depth index of the first block of each stage."""
        return tuple(int(start) for start in np.unique(self.stage, return_index=True)[1])


def measure_moments(model: ResNet, variables: Any, images: Images, *, train: bool = True) -> Moments:
    """Return the moments of the stem and of every block of ``model`` for ``images``.

    Nothing is dropped, whatever the network's rates of dropout and stochastic depth. No activation is kept: each is
    reduced to its two moments as it is computed.

    Args:
        model: the network.
        variables: ``params`` and, with batch norm, ``batch_stats``.
        images: normalized images.
        train: normalize by the statistics of this batch instead of the running averages.

    >>> from resnet_jax.models import create_model
    >>> model = create_model("plain20_cifar", stage_sizes=(1, 1), widths=(4, 8))
    >>> images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    >>> variables = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))
    >>> moments = measure_moments(model, variables, images)
    >>> moments.mean_square.shape, moments.stage_starts
    ((2,), (0, 1))
    """
    config = dataclasses.replace(nothing_dropped(model.config), execution="unroll", remat="none")
    return _moments(config, *_measure(config, train)(unstack(variables), images))


def sample_moments(config: ResNetConfig, key: Array, images: Images, *, train: bool = True) -> Moments:
    """Return the moments of a network of ``config`` at its random initialization, without ever building it.

    Blocks of equal shape share one compiled function of a key, NF's beta and the input: it draws the parameters of one
    block, applies it and discards them. Neither compile time nor memory grows with depth: 1,202 layers compile like 14.

    Args:
        config: the network's choices.
        key: PRNG key for the parameters.
        images: normalized images.
        train: normalize by the statistics of this batch; otherwise by the initial running averages, 0 and 1.

    Raises:
        UsageError: there is a layer between the stages.
    """
    require_blocks_only(config)
    config = nothing_dropped(config)
    blocks = [block for stage in plan_stages(config) for block in stage]
    keys = list(jax.random.split(key, len(blocks) + 1))
    of_block = _without_depth(config)
    init, apply = _stem(of_block, train)
    x, stem = apply(init(keys[0], images), images)
    rows = []
    for block, block_key in zip(blocks, keys[1:], strict=True):
        init, apply = _block(of_block, without_place(block), train)
        beta = np.asarray(block.beta, config.dtype)
        x, row = apply(init(block_key, x), beta, x)
        rows.append(row)
    return _moments(config, stem, np.stack(rows))


@functools.lru_cache(maxsize=16)
def _measure(config: ResNetConfig, train: bool) -> Any:
    model = ResNet(config)

    def measure(variables, images):
        seen = []

        def keep(call, args, kwargs, context):
            y = call(*args, **kwargs)
            if isinstance(context.module, (Stem, Block)) and context.method_name == "__call__":
                seen.append(_reduce(y))
            return y

        with nn.intercept_methods(keep):
            model.apply(variables, images, train=train, mutable=["batch_stats"])
        return seen[0], jnp.stack(seen[1:])

    return jax.jit(measure)


# Initialization and application are compiled separately: together they take XLA three times as long.


@functools.lru_cache(maxsize=16)
def _stem(config: ResNetConfig, train: bool) -> tuple[Any, Any]:
    """Return ``init(key, images)`` and ``apply(variables, images)``, which returns the output and its moments."""
    stem = Stem(config)

    def apply(variables, images):
        y, _ = stem.apply(variables, images, train=train, mutable=["batch_stats"])
        return y, _reduce(y)

    return _compiled_init(stem), jax.jit(apply)


@functools.lru_cache(maxsize=64)
def _block(config: ResNetConfig, block: BlockSpec, train: bool) -> tuple[Any, Any]:
    """Return ``init(key, x)`` and ``apply(variables, beta, x)``, which returns the output and its moments."""
    module = Block(config, block)

    def apply(variables, beta, x):
        y, _ = module.apply(variables, x, train=train, varying=BlockInputs(beta, 0.0), mutable=["batch_stats"])
        return y, _reduce(y)

    return _compiled_init(module), jax.jit(apply)


def _compiled_init(module: nn.Module) -> Any:
    # on the CPU, XLA spends seconds optimizing each random draw
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(lambda key, x: module.init(key, x, train=False), compiler_options=options)


def _reduce(x: Array) -> Array:
    """Return mean square and mean, ``(2,)``."""
    x = x.astype(at_least_float32(x.dtype))
    return jnp.stack([jnp.mean(jnp.square(x)), jnp.mean(x)])


def _without_depth(config: ResNetConfig) -> ResNetConfig:
    """Return ``config`` with one block per stage, unless (Fixup) a block's initial weights depend on the depth."""
    if config.residual == "fixup":
        return config
    return dataclasses.replace(config, stage_sizes=(1,) * len(config.stage_sizes), branch_widths=())


def _moments(config: ResNetConfig, stem: ArrayLike, rows: ArrayLike) -> Moments:
    values = np.asarray(rows, np.float64)
    stage = np.repeat(np.arange(len(config.stage_sizes)), config.stage_sizes)
    square, mean = np.asarray(stem, np.float64).tolist()
    return Moments((square, mean), values[:, 0], values[:, 1], stage)
