"""Images of another source resized to the network's size, and their original sizes."""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from resnet_jax.data.example import Example, Spec
from resnet_jax.data.in_memory import materialize
from resnet_jax.data.records import Records, in_memory
from resnet_jax.data.unreadable import Unreadable, first_readable
from resnet_jax.errors import UsageError
from resnet_jax.runs.trained import TrainedRun


class Sizes:
    """Records that remember the sizes of the images read from them."""

    def __init__(self, records: Records):
        self.records = records
        self.seen: set[tuple[int, int]] = set()

    @property
    def labels(self) -> np.ndarray:
        """As in the records."""
        return self.records.labels

    def __len__(self) -> int:
        return len(self.records)

    @property
    def spec(self) -> Spec:
        """As in the records."""
        return self.records.spec

    def __getitem__(self, index: int, /) -> Example:
        example = self.records[index]
        height, width = example["image"].shape[:2]
        self.seen.add((height, width))
        return example

    def describe(self, index: int) -> str:
        return self.records.describe(index)


def bring_to_size(trained: TrainedRun, records: Records, unreadable: Unreadable | None = None) -> tuple[Records, Sizes]:
    """Return images resized to the network's size as in evaluation, in memory if they fit, and their original sizes.

    Args:
        trained: the network.
        records: records as stored.
        unreadable: counts unreadable images; None to stop at one.

    Raises:
        UsageError: if the network's images are not square and these have another size, which no rule can convert.
        DataError: if an image is unreadable.
    """
    sizes = Sizes(records)
    stored = first_readable(sizes, unreadable)[1]["image"]
    first = stored.shape
    if stored.dtype != trained.card.image_dtype:
        raise UsageError(
            f"{trained.path} was trained on {trained.card.image_dtype}, and {records.describe(0)} is {stored.dtype}: "
            "its normalization is not that of these values; give it the same kind"
        )
    if len(first) != 3 or len(trained.card.image_shape) != 3:
        if first != trained.card.image_shape:
            raise UsageError(f"{trained.path} takes {trained.card.image_shape}, and {records.describe(0)} is {first}")
        return records, sizes
    height, width, channels = trained.card.image_shape
    sized = trained.geometry.image_size is not None or trained.geometry.resize is not None
    if not sized and first[:2] != (height, width):
        raise UsageError(
            f"{trained.path} takes images of {height}x{width} pixels (height x width), and {records.describe(0)} has "
            f"{first[0]}x{first[1]}: no rule brings images to a size that is not square. Resize them, or give "
            "data.image_size for square ones"
        )
    if first[2] != channels:
        raise UsageError(f"{trained.path} takes {channels} channels, and {records.describe(0)} has {first[2]}")
    watched = records if in_memory(records) else sizes
    return materialize(watched, trained.geometry, training=False, unreadable=unreadable), sizes


def describe_sizes(trained: TrainedRun, sizes: Set[tuple[int, int]]) -> tuple[str, ...]:
    """Describe what was done to images, (height, width) each, of other sizes than the network's; empty if all fit."""
    if len(trained.card.image_shape) != 3:
        return ()
    height, width, _ = trained.card.image_shape
    others = sorted(size for size in sizes if size != (height, width))
    if not others:
        return ()
    found = " and ".join(f"{h}x{w}" for h, w in others)
    if len(others) > 2:
        smallest, largest = (pick(others, key=lambda size: size[0] * size[1]) for pick in (min, max))
        found = f"of {len(others)} sizes, {smallest[0]}x{smallest[1]} to {largest[0]}x{largest[1]},"
    if trained.geometry.resize is not None:
        return (f"images {found} brought to {height}x{width}, all of them",)
    how = "shorter side resized, centre cut out"
    if trained.geometry.random:
        how = f"shorter side to {trained.geometry.shorter_side}, centre cut out"
    square = all(h == w for h, w in others) and not trained.geometry.random
    return (f"images {found} brought to {height}x{width}" + ("" if square else f" ({how})"),)
