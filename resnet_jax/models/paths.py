"""The grammar of variable paths. This is the only module that knows it.

=====================================  ========================================================================
path                                   what it is
=====================================  ========================================================================
``stem/...``                           before the first block: ``conv``, ``conv1`` to ``conv3``, or ``whiten``
``stage{s}/transition/...``            start of a stage with ``transition="conv_pool"``: ``conv``, ``norm``
``stage{s}/block{b}/...``              a block; stages count from 1, blocks from 0
``stage{s}/blocks/...``                blocks 1, 2, ... of a stage that runs in a loop, stacked along the first axis
``.../branch/...``                     a block's residual branch: ``conv{i}``, ``norm{i}``, ``se``, ``eca``, scalars
``.../shortcut/...``                   its skip, where that is not the identity
``norm/...``                           in order ``pre``: after the last block
``head/kernel``, ``head/bias``         the classifier
``bias2``                              Fixup's scalar before the classifier
``left/...``, ``right/...``            the two towers, a network each; next to them ``log_scale``
=====================================  ========================================================================
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

STEM = "stem"
HEAD = "head"
WHITEN = "whiten"
"""The convolution of stem ``whiten``, whose kernel is frozen."""
TRANSITION = "transition"
"""The layers before the blocks of a stage with ``transition="conv_pool"``."""
STACK = "blocks"
"""The name of stacked blocks."""

TOWERS = ("left", "right")
"""The two networks of a model with two towers."""
LOG_SCALE = "log_scale"
"""Their temperature, as the logarithm of its inverse."""

HEAD_KERNEL, HEAD_BIAS = f"{HEAD}/kernel", f"{HEAD}/bias"
STEM_KERNELS = (f"{STEM}/conv/kernel", f"{STEM}/conv1/kernel")
"""The kernels that see the image: that of a single-convolution stem and that of a deep stem."""

#: A block's path, to be formatted with ``stage`` (from 1) and ``block`` (from 0).
BLOCK = "stage{stage}/block{block}"

_STAGE = re.compile(r"stage([1-9]\d*)")
_BLOCK = re.compile(r"block(0|[1-9]\d*)")


def stage_name(index: int) -> str:
    """Return the name of a stage; ``index`` counts from 0.

    >>> stage_name(0)
    'stage1'
    """
    return f"stage{index + 1}"


def block_name(index: int) -> str:
    """Return the name of a block within its stage, counted from 0.

    >>> block_name(0)
    'block0'
    """
    return f"block{index}"


def stage_index(name: str) -> int | None:
    """Return the index, from 0, of the stage called ``name``, or None.

    >>> stage_index("stage3"), stage_index("stages"), stage_index("stage0")
    (2, None, None)
    """
    match = _STAGE.fullmatch(name)
    return int(match[1]) - 1 if match else None


def block_index(name: str) -> int | None:
    """Return the index within its stage, from 0, of the block called ``name``, or None.

    >>> block_index("block10"), block_index("blocks")
    (10, None)
    """
    match = _BLOCK.fullmatch(name)
    return int(match[1]) if match else None


@dataclasses.dataclass(frozen=True)
class Place:
    """The place in a network that a path leads to.

    Attributes:
        stage: index from 0; None outside the stages.
        block: index from 0 within its stage; None outside a block and for stacked blocks.
        stacked: whether it is in the stacked blocks of its stage.
        rest: the remaining names, from the outside in.
    """

    stage: int | None
    block: int | None
    stacked: bool
    rest: tuple[str, ...]

    @property
    def in_stem(self) -> bool:
        """Whether it is part of the stem."""
        return self.stage is None and len(self.rest) > 1 and self.rest[0] == STEM


def parse(path: str | Sequence[str]) -> Place:
    """Return the place that a path leads to. Names of enclosing modules may come first and are skipped.

    Args:
        path: names from the outside in, or joined with ``/``.

    >>> parse("stage2/block1/branch/conv1/kernel")
    Place(stage=1, block=1, stacked=False, rest=('branch', 'conv1', 'kernel'))
    >>> parse("backbone/stage1/blocks/branch/gain").stacked, parse("backbone/stem/conv/kernel").in_stem
    (True, True)
    >>> parse("head/kernel")
    Place(stage=None, block=None, stacked=False, rest=('head', 'kernel'))
    """
    names = tuple(path.split("/")) if isinstance(path, str) else tuple(path)
    for at, name in enumerate(names[:-1]):
        stage = stage_index(name)
        if stage is not None and (names[at + 1] == STACK or block_index(names[at + 1]) is not None):
            return Place(stage, block_index(names[at + 1]), names[at + 1] == STACK, names[at + 2 :])
    stem = names.index(STEM) if STEM in names[:-1] else 0
    return Place(None, None, False, names[stem:])
