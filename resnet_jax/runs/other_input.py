"""What a run knows of the second input of its examples, the field ``other``."""

from __future__ import annotations

import dataclasses

from resnet_jax.data.example import INPUTS, OTHER
from resnet_jax.data.records import Records
from resnet_jax.data.stats import channel_stats
from resnet_jax.data.unreadable import Unreadable, first_readable

#: Pixels, samples or voxels along one side of an input.
MOST_SIDE = 1 << 20


@dataclasses.dataclass(frozen=True)
class OtherInput:
    """The second input of the examples.

    Attributes:
        shape: of one, with its channels.
        dtype: of the values.
        mean: per channel, of x / 255 for uint8, else of the values.
        std: per channel, of the same.
    """

    shape: tuple[int, ...]
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what no input has, of a file that may be damaged."""
        if not self.shape or not all(0 < side <= MOST_SIDE for side in self.shape):
            raise ValueError(f"shape is {repr(self.shape)[:40]}")


def other_input(records: Records, unreadable: Unreadable | None) -> OtherInput | None:
    """Return what is known of the second input of training examples; None where they have none."""
    field = records.spec.get(OTHER)
    if field is None or field.meaning not in INPUTS:
        return None
    example = first_readable(records, unreadable)[1][OTHER]
    mean, std = channel_stats(records, unreadable=unreadable, field=OTHER)
    return OtherInput(example.shape, example.dtype.name, tuple(mean.tolist()), tuple(std.tolist()))
