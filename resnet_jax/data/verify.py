"""Whether images that are read on demand can all be decoded; checked before training if that is quick."""

from __future__ import annotations

import numpy as np

from resnet_jax.data.in_memory import in_threads
from resnet_jax.data.records import Records, Subset, in_memory
from resnet_jax.data.transform import Geometry
from resnet_jax.data.unreadable import Unreadable, first_readable, read_or_count
from resnet_jax.data.view import View
from resnet_jax.errors import DataError

LIMIT_BYTES = 1 << 30
"""Total size of the files up to which they are all decoded once as a check: about 9,000 photographs like ImageNet's,
which take two cores half a minute to a minute."""
CHUNK = 64


def check_readable(
    records: Records,
    geometry: Geometry,
    *,
    limit_bytes: int = LIMIT_BYTES,
    threads: int | None = None,
    unreadable: Unreadable | None = None,
) -> bool:
    """Decode every image once and discard the pixels.

    Args:
        records: any records; those in memory need no check.
        geometry: as for the batches; without a size of its own, all images must have the same shape.
        limit_bytes: maximum size of encoded images to read; if there are more, none are read.
        threads: decoding threads; None for one per processor.
        unreadable: counts unreadable examples; None to stop at one.

    Returns:
        Whether all images are known to be readable; False if there are too many to check.

    Raises:
        DataError: if an image is unreadable, too many are, or one has another size; if several, the first is reported.
    """
    if in_memory(records):
        return True
    size = encoded_bytes(records)
    if size is None or size > limit_bytes:
        return False
    sized = geometry.image_size is not None or geometry.resize is not None
    view = None if sized else View(records, geometry, training=False, unreadable=unreadable)
    reference, first = first_readable(records, unreadable)
    channels = first["image"].shape[-1]

    def check(start: int) -> None:
        if view is not None:
            view.read(np.arange(start, min(start + CHUNK, len(records))))
            return
        for index in range(start, min(start + CHUNK, len(records))):
            example = records[index] if unreadable is None else read_or_count(records, index, unreadable)
            if example is not None and example["image"].shape[-1] != channels:
                raise DataError(
                    f"{records.describe(index)} has {example['image'].shape[-1]} channels, "
                    f"{records.describe(reference)} {channels}"
                )

    in_threads(check, range(0, len(records), CHUNK), threads)
    return True


def encoded_bytes(records: Records) -> int | None:
    """Return the size of the encoded images in bytes; for a subset, in proportion to its count; None if unknown."""
    if isinstance(records, Subset):
        whole = encoded_bytes(records.records)
        return None if whole is None else int(np.ceil(whole * len(records) / max(len(records.records), 1)))
    return getattr(records, "encoded_bytes", None)
