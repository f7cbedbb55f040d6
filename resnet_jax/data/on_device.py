"""What the compiled step does to a batch before the network sees it: transforms and normalization, in order."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import jax
from jax import Array

from resnet_jax.data.augment import example_keys, normalize
from resnet_jax.data.example import Spec
from resnet_jax.data.mix import label_rows
from resnet_jax.data.transforms import DeviceTransform

Prepare = Callable[[Array, Mapping[str, Array]], dict[str, Array]]


def prepare_with(
    transforms: Sequence[DeviceTransform],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    spec: Spec | None = None,
    num_classes: int = 0,
) -> Prepare:
    """Return ``prepare(key, batch) -> batch``: the transforms in order, with normalization where it is first needed.

    Every example draws from its own keys, folded from (the run's key, the transform's stream, epoch, index), so that it
    is transformed the same way in any batch. A transform that is listed twice draws anew each time.

    Args:
        transforms: as returned by :func:`resnet_jax.data.transforms.divide`.
        mean: mean of the inputs per channel.
        std: standard deviation per channel.
        spec: the meaning of the fields of the batch; None: only images and labels.
        num_classes: K, for labels that are mixed.
    """
    streams = _streams(transforms)

    def prepare(key: Array, batch: Mapping[str, Array]) -> dict[str, Array]:
        found, normalized = dict(batch), False
        for transform, (stream, again) in zip(transforms, streams, strict=True):
            if getattr(transform, "needs", "any") == "normalized" and not normalized:
                found["image"], normalized = normalize(found["image"], mean, std), True
            if getattr(transform, "mixes", False):
                found["label"] = label_rows(found["label"], num_classes)
            own = key if stream is None else jax.random.fold_in(key, stream)
            own = jax.random.fold_in(own, again) if again else own
            found = transform.apply(found, example_keys(own, batch["epoch"], batch["index"]), spec or {})
        return found if normalized else {**found, "image": normalize(found["image"], mean, std)}

    return prepare


def _streams(transforms: Sequence[DeviceTransform]) -> list[tuple[int | None, int]]:
    """Return the stream of each transform, and how often it occurred before; without a stream, its class has one."""
    seen: Counter[object] = Counter()
    streams = []
    for transform in transforms:
        kind = type(transform)
        stream = getattr(kind, "stream", zlib.crc32(kind.__qualname__.encode()))
        address = stream if stream is not None else kind  # crop and flip take other words of the same draw
        streams.append((stream, seen[address]))
        seen[address] += 1
    return streams
