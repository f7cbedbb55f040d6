"""The blocks of a network in depth order, with all properties that follow from the configuration."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple, assert_never

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from resnet_jax.models.config import ResNetConfig


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One residual block.

    Attributes:
        stage: its stage, from 0.
        index: its place in the stage, from 0.
        depth: its place in the network, from 0.
        in_features: input channels.
        features: output channels.
        width: base width of its stage.
        strides: stride of the block.
        beta: factor that the NF rules apply to the activated input: 1 / sqrt(variance of the input); otherwise 1.
        drop_rate: probability that stochastic depth drops the branch.
        dilation: distance between the taps of a window in positions of the block's output; 1 without ``output_stride``.
        undone: the stride that dilation replaces in this block, 1 or 2; ``strides`` is then 1.
        inner: output channels of each convolution of its branch but the last (``branch_widths``); empty: the block kind
            decides.
    """

    stage: int
    index: int
    depth: int
    in_features: int
    features: int
    width: int
    strides: int
    beta: float
    drop_rate: float | Float[Array, ""]
    dilation: int = 1
    undone: int = 1
    inner: tuple[int, ...] = ()

    @property
    def changes_shape(self) -> bool:
        """Whether the skip cannot be the identity, or could not before dilation replaced the block's stride."""
        return self.strides * self.undone != 1 or self.in_features != self.features

    @property
    def dilation_in(self) -> int:
        """Distance between the taps of a window at the resolution of the block's input."""
        return self.dilation // self.undone


class BlockInputs(NamedTuple):
    """The values that differ between blocks of one shape, stacked along a leading axis where blocks run in a loop.

    Attributes:
        beta: see :class:`BlockSpec`.
        drop_rate: see :class:`BlockSpec`.
        key: PRNG key for what the block drops; None if nothing is dropped.
    """

    beta: float | Float[Array, " *blocks"]
    drop_rate: float | Float[Array, " *blocks"]
    key: Key[Array, " *blocks"] | None = None

    @classmethod
    def of(cls, block: BlockSpec, key: Key[Array, ""] | None) -> BlockInputs:
        """Return the values of ``block``; ``key`` is the network's key."""
        return cls(block.beta, block.drop_rate, None if key is None else jax.random.fold_in(key, block.depth))

    @classmethod
    def stacked(cls, blocks: Sequence[BlockSpec], key: Key[Array, ""] | None, dtype: DTypeLike) -> BlockInputs:
        """Return the values of blocks that run in a loop, with shape ``(blocks,)`` each; beta has dtype ``dtype``."""
        depths = jnp.asarray([block.depth for block in blocks], jnp.uint32)
        return cls(
            jnp.asarray([block.beta for block in blocks], dtype),
            jnp.asarray([block.drop_rate for block in blocks], jnp.float32),
            None if key is None else jax.vmap(jax.random.fold_in, (None, 0))(key, depths),
        )


def are_alike(blocks: Sequence[BlockSpec]) -> bool:
    """Return whether all blocks of a stage but the first are equal, as a loop requires."""
    return len({block.inner for block in blocks[1:]}) == 1


def projects(config: ResNetConfig, block: BlockSpec) -> bool:
    """Return whether the skip of a block is a 1x1 convolution."""
    match config.shortcut:
        case "C":
            return True
        case "B" | "B_norm" | "D":
            return block.changes_shape
        case "A" | "A_end" | "none":
            return False
        case _:
            assert_never(config.shortcut)


def stem_widths(config: ResNetConfig) -> tuple[int, ...]:
    """Return the channels of each convolution of the stem.

    >>> stem_widths(ResNetConfig((2, 2, 2, 2), stem="deep_tiered"))
    (24, 32, 64)
    """
    width = config.stem_width or config.widths[0]
    match config.stem:
        case "none":
            return (config.in_channels,)
        case "cifar" | "imagenet" | "waveform":
            return (width,)
        case "whiten":
            return (2 * config.whiten_window**config.spatial_dims * config.in_channels,)
        case "deep":
            return width // 2, width // 2, width
        case "deep_tiered":
            return width * 3 // 8, width // 2, width
        case "deep_wide":
            return width, width, width * 2
        case _:
            assert_never(config.stem)


def plan_stages(config: ResNetConfig) -> tuple[tuple[BlockSpec, ...], ...]:
    """Return the blocks of each stage.

    NF rules (Brock et al. 2021, section 3): if v is the variance of a block's input, beta = 1 / sqrt(v), and each block
    adds alpha^2. A projection on the skip sees the normalized input, so the variance restarts from 1. Option A keeps v
    and spreads it over more channels, of which the new ones are zero.

    >>> [round(block.beta, 6) for block in plan_stages(ResNetConfig((3, 1), (8, 16), residual="nf", norm="none",
    ...     block="bottleneck"))[0]]
    [1.0, 0.980581, 0.96225]
    """
    stages, features, depth, variance = [], stem_widths(config)[-1], 0, 1.0
    last = max(config.num_blocks - 1, 1)
    stride, dilation = config.stem_stride, 1
    inner = len(config.branch_widths) // config.num_blocks
    for stage, (size, width) in enumerate(zip(config.stage_sizes, config.widths, strict=True)):
        blocks = []
        pools = config.transition == "conv_pool"
        features = width * config.expansion if pools else features
        strides = 2 if stage > 0 and config.transition == "stride" else 1
        undone = strides if config.output_stride is not None and stride * strides > config.output_stride else 1
        strides //= undone
        stride, dilation = stride * strides, dilation * undone
        for index in range(size):
            block = BlockSpec(
                stage=stage,
                index=index,
                depth=depth,
                in_features=features,
                features=width * config.expansion,
                width=width,
                strides=strides if index == 0 else 1,
                beta=1.0 / math.sqrt(variance) if config.is_nf else 1.0,
                drop_rate=config.drop_path * depth / last,
                dilation=dilation,
                undone=undone if index == 0 else 1,
                inner=config.branch_widths[depth * inner : (depth + 1) * inner],
            )
            if projects(config, block):
                variance = 1.0
            elif block.changes_shape:
                variance *= block.in_features / block.features
            variance += config.alpha**2
            blocks.append(block)
            features, depth = block.features, depth + 1
        stages.append(tuple(blocks))
    return tuple(stages)
