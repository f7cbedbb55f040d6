"""What a server is asked for: how it batches, and what it refuses."""

from __future__ import annotations

import dataclasses

from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, NotNegative, Positive, check_fields

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Batching:
    """How images become batches."""

    sizes: tuple[AtLeast1, ...] = (1, 4, 16)
    """Sizes of batches that are compiled, ascending. Images that wait go together in the size that gives the most
    images a second, as measured when the server starts."""
    wait_ms: NotNegative = 5.0
    """How long an image waits at most, in milliseconds, for others whose requests are being read or decoded."""
    decoders: AtLeast1 = 2
    """Threads that decode images and parse JSON."""

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        check_fields(self, "batching.")
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise UsageError(f"batching.sizes must be ascending and 1 or more, got {self.sizes}")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is refused, and when."""

    body_mib: Positive = 10.0
    """MiB of a request's body; more is answered 413."""
    megapixels: Positive = 25.0
    """Millions of pixels of an image, by its header, before it is decoded; more is answered 413."""
    images: AtLeast1 = 64
    """Images of a request; more are answered 413."""
    queue: AtLeast1 = 256
    """Images that wait or are being computed; beyond that requests are answered 503."""
    memory_mib: AtLeast1 = 128
    """MiB of all bodies that are held at a time; beyond that requests are answered 503."""
    connections: AtLeast1 = 1024
    """Connections at a time; further ones are answered 503 and closed."""
    head_seconds: Positive = 10.0
    """In which the head of a request must have come; else the connection is closed."""
    upload_seconds: Positive = 15.0
    """In which the body must have come; else 408."""
    seconds: Positive = 30.0
    """From there to the answer; else 504."""
    drain_seconds: Positive = 20.0
    """In which requests that were accepted are answered after SIGTERM or Ctrl-C."""

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        check_fields(self, "limits.")
        if self.memory_mib < self.body_mib:
            raise UsageError(
                f"limits.memory_mib {self.memory_mib:g} is less than one body may have, limits.body_mib "
                f"{self.body_mib:g}"
            )

        if self.queue < self.images:
            raise UsageError(
                f"limits.queue {self.queue:,} is less than one request may have, limits.images {self.images:,}"
            )

    @property
    def body(self) -> int:
        """Bytes of a body."""
        return int(self.body_mib * MIB)

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return int(self.megapixels * 1e6)
