"""Progressive resizing: a run whose images have a different size in each stage, and are evaluated at their own.

As in M. Tan and Q. V. Le, EfficientNetV2 (ICML 2021, arXiv 2104.00298), and the recipes of FFCV and MosaicML: small
images first, because most of what a network learns early needs no more. Each stage has its own feed, so that shapes
within it are static: the step is compiled once per size, and a run can resume in the middle of a stage as anywhere
else.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

from resnet_jax.data.sizes import parse_sizes
from resnet_jax.errors import UsageError
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import RunData
from resnet_jax.training.duration import parse_duration
from resnet_jax.training.feeds import Feed, Staged

MakeFeed: TypeAlias = Callable[..., Feed]


def stages_of(config: RunConfig, steps_per_epoch: int, total_steps: int) -> tuple[tuple[int, int], ...]:
    """Return the first update and the image side of each stage; empty if all images have one size.

    Raises:
        UsageError: for an invalid duration, a first stage that does not start with the run, or stages out of order.

    >>> from resnet_jax.data.config import DataConfig
    >>> config = RunConfig(data=DataConfig(sizes=("128@0%", "160@40%", "224@80%")))
    >>> stages_of(config, steps_per_epoch=10, total_steps=100)
    ((0, 128), (40, 160), (80, 224))
    """
    stages = []
    for size, when in parse_sizes(config.data.sizes):
        try:
            stages.append((parse_duration(when).steps(steps_per_epoch, total_steps), size))
        except UsageError as error:
            raise UsageError(f"data.sizes {size}@{when}: {error}") from None
    starts = [start for start, _ in stages]
    if stages and (starts[0] != 0 or any(later <= earlier for earlier, later in itertools.pairwise(starts))):
        raise UsageError(
            "data.sizes: the first must begin at 0%, and each after the one before; these begin at the updates "
            f"{starts} of {total_steps:,}"
        )
    return tuple(stages)


def in_stages(
    config: RunConfig, images: RunData, steps_per_epoch: int, total_steps: int, make: Callable[[RunData], MakeFeed]
) -> MakeFeed:
    """Return ``make_feed`` of a run, with its images, or with those of each stage.

    Args:
        config: the run.
        images: its images.
        steps_per_epoch: updates per epoch.
        total_steps: updates of the run.
        make: returns ``make_feed`` for images.

    Raises:
        UsageError: for impossible stages, or inputs that are not images.
    """
    stages = stages_of(config, steps_per_epoch, total_steps)
    if not stages:
        return make(images)
    if len(images.card.image_shape) != 3:
        raise UsageError(f"data.sizes are of images (height, width, channels), not of {images.card.image_shape}")
    makers = [make(_brought_to(images, size)) for _, size in stages]
    starts = tuple(start for start, _ in stages)

    def make_feed(seeds: Sequence[int] | None = None, rollbacks: Sequence[int] = ()) -> Feed:
        return Staged(starts, tuple(maker(seeds, rollbacks) if rollbacks else maker(seeds) for maker in makers))

    return make_feed


def _brought_to(images: RunData, size: int) -> RunData:
    return dataclasses.replace(images, geometry=dataclasses.replace(images.geometry, image_size=size, eval_side=None))
