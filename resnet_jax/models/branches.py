"""The convolutions in the branch of a block: basic, bottleneck, or a block of your own.

You register a block with a function that lists its convolutions. Norms, activations, the residual rule, attention, the
skip, and everything that counts, folds, measures or draws blocks follow from that list.

>>> @register_block("wide_kernel", expansion=1)
... def wide_kernel(config, plan):
...     return BranchConv(plan.width, 5, plan.strides), BranchConv(plan.features, 1)
>>> BLOCKS.pop("wide_kernel").expansion
1
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, assert_never

from resnet_jax.errors import UsageError
from resnet_jax.runtime.registry import Registry

if TYPE_CHECKING:
    from resnet_jax.models.config import ResNetConfig
    from resnet_jax.models.plan import BlockSpec


@dataclasses.dataclass(frozen=True)
class BranchConv:
    """One convolution of a branch.

    Attributes:
        features: output channels.
        kernel_size: side of the window. An even window gets one more row of padding after the map than before it.
        strides: stride along every spatial dimension.
        groups: channel groups.
        dilation: distance between the taps of the window.
    """

    features: int
    kernel_size: int
    strides: int = 1
    groups: int = 1
    dilation: int = 1


BranchRule: TypeAlias = "Callable[[ResNetConfig, BlockSpec], tuple[BranchConv, ...]]"


@dataclasses.dataclass(frozen=True)
class BlockKind:
    """A kind of block.

    Attributes:
        expansion: output channels as a multiple of the stage's width.
        convs: a function from the network's choices and the block's place to the convolutions of the branch, first to
            last. The product of their strides is the block's stride, and the last one outputs the block's ``features``.
    """

    expansion: int
    convs: BranchRule


#: Every kind of block by name.
BLOCKS: Registry[BlockKind] = Registry("block")


def register_block(name: str, *, expansion: int) -> Callable[[BranchRule], BranchRule]:
    """Return a decorator that registers a rule as the block kind ``ResNetConfig(block=name)``.

    Args:
        name: the new value of the choice ``block``.
        expansion: see :class:`BlockKind`.

    Raises:
        UsageError: the name is taken, or the expansion is less than 1.
    """
    if expansion < 1:
        raise UsageError(f"expansion of block {name!r} must be 1 or more, got {expansion}")

    def add(rule: BranchRule) -> BranchRule:
        BLOCKS[name] = BlockKind(expansion, rule)
        return rule

    return add


def branch_convs(config: ResNetConfig, plan: BlockSpec) -> tuple[BranchConv, ...]:
    """Return the convolutions of a branch, first to last.

    Raises:
        UsageError: the convolutions of a registered block do not turn the block's input into its output shape.
    """
    convs = _with_widths(BLOCKS[config.block].convs(config, plan), plan.inner, config.block)
    strides = math.prod(conv.strides for conv in convs)
    if not convs or strides != plan.strides or convs[-1].features != plan.features:
        found = f"stride {strides} and {convs[-1].features} channels" if convs else "no convolution"
        raise UsageError(
            f"block {config.block!r} of stage {plan.stage + 1}: its convolutions give {found}, and the skip has stride "
            f"{plan.strides} and {plan.features} channels"
        )
    return convs


def _with_widths(convs: tuple[BranchConv, ...], inner: tuple[int, ...], block: str) -> tuple[BranchConv, ...]:
    """Return the convolutions with ``inner`` output channels, except for the last; unchanged if ``inner`` is empty."""
    if not inner:
        return convs
    if len(inner) != len(convs) - 1 or any(conv.groups != 1 for conv in convs):
        raise UsageError(
            f"branch_widths gives {len(inner)} numbers of channels a block, and block {block!r} has {len(convs) - 1} "
            f"convolutions before its last{', in groups' if any(conv.groups != 1 for conv in convs) else ''}: it takes "
            "one number for each, in a block without groups"
        )
    features = (*inner, convs[-1].features)
    return tuple(dataclasses.replace(conv, features=each) for conv, each in zip(convs, features, strict=True))


@register_block("basic", expansion=1)
def basic(config: ResNetConfig, plan: BlockSpec) -> tuple[BranchConv, ...]:
    """Two 3x3 convolutions (He et al. 2016, fig. 5 left).

    Where dilation replaces a stride, the convolution that had the stride sees the input's resolution and the ones after
    it the output's. The same holds for a bottleneck.
    """
    return (
        BranchConv(plan.width, 3, plan.strides, dilation=plan.dilation_in),
        BranchConv(plan.features, 3, dilation=plan.dilation),
    )


@register_block("single", expansion=1)
def single(config: ResNetConfig, plan: BlockSpec) -> tuple[BranchConv, ...]:
    """One 3x3 convolution; with shortcut none a plain layer, as in networks built for speed (arXiv 2404.00498)."""
    return (BranchConv(plan.features, 3, plan.strides, dilation=plan.dilation_in),)


@register_block("series", expansion=1)
def series(config: ResNetConfig, plan: BlockSpec) -> tuple[BranchConv, ...]:
    """Convolutions with windows of 8, 5 and 3 (Wang et al. 2017, arXiv 1611.06455, section 2.3)."""
    return (
        BranchConv(plan.width, 8, plan.strides, dilation=plan.dilation_in),
        BranchConv(plan.width, 5, dilation=plan.dilation),
        BranchConv(plan.features, 3, dilation=plan.dilation),
    )


@register_block("bottleneck", expansion=4)
def bottleneck(config: ResNetConfig, plan: BlockSpec) -> tuple[BranchConv, ...]:
    """1x1, 3x3 and 1x1 convolutions (He et al. 2016, fig. 5 right; with groups: Xie et al. 2017, fig. 3c)."""
    inner = int(plan.width * config.base_width / 64) * config.groups
    match config.stride_in:
        case "3x3":
            middle = BranchConv(inner, 3, plan.strides, config.groups, dilation=plan.dilation_in)
            return BranchConv(inner, 1), middle, BranchConv(plan.features, 1)
        case "1x1":
            middle = BranchConv(inner, 3, 1, config.groups, dilation=plan.dilation)
            return BranchConv(inner, 1, plan.strides), middle, BranchConv(plan.features, 1)
        case _:
            assert_never(config.stride_in)
