"""What a run knows about the second input of its examples, the field ``other``."""

from __future__ import annotations

import dataclasses

from resnet_jax.data.example import INPUTS, OTHER
from resnet_jax.data.records import Records
from resnet_jax.data.stats import channel_stats
from resnet_jax.data.unreadable import Unreadable, first_readable
from resnet_jax.errors import UsageError

#: Pixels, samples or voxels along one side of an input.
MOST_SIDE = 1 << 20


@dataclasses.dataclass(frozen=True)
class OtherInput:
    """The second input of the examples.

    Attributes:
        shape: shape of one input, with its channels.
        dtype: dtype of the values.
        mean: mean per channel, of x / 255 for uint8, otherwise of the values.
        std: standard deviation per channel, of the same.
    """

    shape: tuple[int, ...]
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Reject values that no input has, since the file may be damaged."""
        if not self.shape or not all(0 < side <= MOST_SIDE for side in self.shape):
            raise ValueError(f"shape is {repr(self.shape)[:40]}")


def other_input(records: Records, unreadable: Unreadable | None) -> OtherInput | None:
    """Return what is known about the second input of training examples; None if they have none."""
    field = records.spec.get(OTHER)
    if field is None or field.meaning not in INPUTS:
        return None
    example = first_readable(records, unreadable)[1][OTHER]
    mean, std = channel_stats(records, unreadable=unreadable, field=OTHER)
    return OtherInput(example.shape, example.dtype.name, tuple(mean.tolist()), tuple(std.tolist()))


def require_other(wanted: OtherInput | None, records: Records, place: str) -> None:
    """Reject examples without the second input that a network takes.

    Args:
        wanted: the second input that it was trained on; None if it takes one input.
        records: the examples.
        place: where they are, for the message.

    Raises:
        UsageError: if they have none, or one of another shape or dtype.
    """
    if wanted is None:
        return
    field = records.spec.get(OTHER)
    if field is None:
        raise UsageError(f"{place} has examples of one input, and the network takes two: name a source of pairs")
    if field.dtype != wanted.dtype or tuple(field.shape) != wanted.shape:
        found = f"{field.dtype} {tuple(field.shape)}"
        raise UsageError(
            f"the second input of {place} is {found}, and the network was trained on {wanted.dtype} {wanted.shape}"
        )
