"""Options of a server: how it batches and what it rejects."""

from __future__ import annotations

import dataclasses

from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, NotNegative, Positive, check_fields

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Batching:
    """How images are batched."""

    sizes: tuple[AtLeast1, ...] = (1, 4, 16)
    """Batch sizes to compile, ascending. Waiting images are batched in the size with the highest throughput, as
    measured when the server starts."""
    wait_ms: NotNegative = 5.0
    """Maximum time in milliseconds that an image waits for others whose requests are being read or decoded."""
    decoders: AtLeast1 = 2
    """Number of threads that decode images and parse JSON."""

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        check_fields(self, "batching.")
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise UsageError(f"batching.sizes must be ascending and 1 or more, got {self.sizes}")


@dataclasses.dataclass(frozen=True)
class Limits:
    """Which requests are rejected."""

    body_mib: Positive = 10.0
    """Maximum size of a request's body in MiB. Larger ones are answered with 413."""
    megapixels: Positive = 25.0
    """Maximum size of an image in megapixels, judged by its header before decoding. Larger ones are answered with
    413."""
    images: AtLeast1 = 64
    """Maximum number of images in a request. More are answered with 413."""
    queue: AtLeast1 = 256
    """Maximum number of images that wait or are being computed. Beyond it, requests are answered with 503."""
    memory_mib: AtLeast1 = 128
    """Memory in MiB for all request bodies at a time. Beyond it, requests are answered with 503."""
    connections: AtLeast1 = 1024
    """Maximum number of simultaneous connections. Further ones are answered with 503 and closed."""
    head_seconds: Positive = 10.0
    """Seconds within which the head of a request must arrive. Otherwise the connection is closed."""
    upload_seconds: Positive = 15.0
    """Seconds within which the body must arrive. Otherwise the request is answered with 408."""
    seconds: Positive = 30.0
    """Maximum seconds from the complete request to its answer. Otherwise it is answered with 504."""
    drain_seconds: Positive = 20.0
    """Maximum seconds for answering accepted requests after SIGTERM or Ctrl-C."""

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        check_fields(self, "limits.")
        if self.memory_mib < self.body_mib:
            raise UsageError(
                f"limits.memory_mib {self.memory_mib:g} is less than the largest allowed body, limits.body_mib "
                f"{self.body_mib:g}"
            )

        if self.queue < self.images:
            raise UsageError(
                f"limits.queue {self.queue:,} is less than the largest allowed request, limits.images {self.images:,}"
            )

    @property
    def body(self) -> int:
        """Maximum bytes of a body."""
        return int(self.body_mib * MIB)

    @property
    def pixels(self) -> int:
        """Maximum pixels of an image."""
        return int(self.megapixels * 1e6)
