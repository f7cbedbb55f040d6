"""Limits on what a file may ask for before it is trusted, with the variables that raise them, in one table.

A file of a few bytes can ask for gigabytes: as an archive that unpacks to them, or by a number of classes. If the file
itself is large, what it unpacks to may be proportionally large.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from resnet_jax.errors import UsageError

PROPORTION = 8
"""Whatever the limit, a file may unpack to this many times its size, which is far more than for real arrays."""


@dataclass(frozen=True)
class Limit:
    """A limit.

    Attributes:
        variable: environment variable that raises it.
        default: value without that variable.
        unit: unit of both.
        meaning: what is limited.
    """

    variable: str
    default: int
    unit: str
    meaning: str

    @property
    def value(self) -> int:
        """The current limit.

        Raises:
            UsageError: if the variable is not a positive integer.
        """
        given = os.environ.get(self.variable, "")
        if not given:
            return self.default
        if not given.isascii() or not given.isdecimal() or len(given) > 18 or int(given) < 1:
            raise UsageError(f"{self.variable} is {given!r}; need a whole number above 0: {self.meaning}")
        return int(given)

    @property
    def how(self) -> str:
        """A clause that says what is allowed and how to allow more."""
        unit = f" {self.unit}" if self.unit else ""
        return f"at most {self.value:,}{unit} ({self.variable} allows more)"


CLASSES = Limit("RESNET_JAX_MAX_CLASSES", 1_000_000, "", "classes that labels without names may count up to")
UNPACKED = Limit(
    "RESNET_JAX_MAX_UNPACKED_MIB", 1024, "MiB",
    f"what a compressed archive, volume or sound unpacks to, where that is over {PROPORTION} times its size",
)  # fmt: skip
IMAGE = Limit(
    "RESNET_JAX_MAX_IMAGE_MIB", 256, "MiB", "what an image file decodes to, where that is over 64 times its size"
)
WEIGHTS = Limit("RESNET_JAX_MAX_WEIGHTS_MIB", 65536, "MiB", "a file of weights, which is read as a whole")
LIMITS = (CLASSES, UNPACKED, IMAGE, WEIGHTS)


def too_much_unpacked(unpacked: int, packed: int) -> str | None:
    """Return why a file must not be unpacked, or None if it may be.

    Args:
        unpacked: claimed unpacked size in bytes.
        packed: its size in bytes.
    """
    if unpacked <= PROPORTION * packed or unpacked <= UNPACKED.value << 20:
        return None
    return f"its {packed:,} bytes unpack to {unpacked:,}; {UNPACKED.how}"
