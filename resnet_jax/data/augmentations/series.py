"""Signals (length, channels) and spectrograms (time, frequency): noise, scaling, time stretch, SpecAugment.

Crops and mirrors are those for images, :mod:`resnet_jax.data.augmentations.crop` and ``flip``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from resnet_jax.data.augmentations.base import ForExample, below, between, with_chance
from resnet_jax.data.example import Spec
from resnet_jax.data.operations.fields import meaning_in
from resnet_jax.data.transforms import Needs, register_transform
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, Positive, Share

Array = Any


@register_transform("jitter")
@dataclass(frozen=True)
class Jitter:
    """Adds normal noise to every value, for inputs of any rank (T. T. Um et al., ICMI 2017: 0.05 for wearable sensors).

    Attributes:
        std: standard deviation of the noise, in standard deviations of the data.
    """

    std: Positive
    where: ClassVar = "device"
    needs: ClassVar[Needs] = "normalized"
    stream: ClassVar = 0x6A6974
    mixes: ClassVar = False
    carried: ClassVar = ("std",)

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Add noise to every example."""
        import jax

        inputs = batch["image"]
        noise = jax.vmap(lambda key: jax.random.normal(key, inputs.shape[1:], inputs.dtype))(keys)
        return {**batch, "image": inputs + self.std * noise}


@register_transform("scaling")
@dataclass(frozen=True)
class Scaling:
    """Multiplies every channel by a normal factor around 1, for inputs of any rank (T. T. Um et al., ICMI 2017: 0.1).

    Attributes:
        std: standard deviation of the factor.
    """

    std: Positive
    where: ClassVar = "device"
    needs: ClassVar[Needs] = "normalized"
    stream: ClassVar = 0x736361
    mixes: ClassVar = False
    carried: ClassVar = ("std",)

    def apply(self, batch: dict[str, Any], keys: Any, spec: Spec, /) -> dict[str, Any]:
        """Scale the channels of every example."""
        import jax

        inputs = batch["image"]
        shape = (*(1,) * (inputs.ndim - 2), inputs.shape[-1])
        factor = 1 + self.std * jax.vmap(lambda key: jax.random.normal(key, shape, inputs.dtype))(keys)
        return {**batch, "image": inputs * factor}


@register_transform("time_stretch")
@dataclass(frozen=True)
class TimeStretch(ForExample):
    """Plays a signal faster or slower from its start, at the same length: linear interpolation; the end repeats.

    Attributes:
        low: lowest speed; below 1 is slower, and the end is lost.
        high: highest speed.
        probability: probability that a signal is stretched.
    """

    low: Positive = 0.8
    high: Positive = 1.25
    probability: Share = 1.0
    needs: ClassVar[Needs] = "any"
    name: ClassVar = "time_stretch"
    ranks: ClassVar = (2,)
    words: ClassVar = 2
    carried: ClassVar = ("low", "high", "probability")

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise UsageError(f"time_stretch: low {self.low:g} is above high {self.high:g}")

    def one(self, xp: Any, fields: dict[str, Array], words: Array, spec: Spec) -> dict[str, Array]:
        """Stretch one signal, and masks along its length to the nearest point."""
        length = fields["image"].shape[0]
        place = xp.arange(length, dtype=xp.float32) * between(xp, words[1], self.low, self.high)
        place = xp.clip(place, 0, length - 1)
        first = xp.floor(place)
        share = (place - first)[:, None]
        before = first.astype(xp.int32)
        after = xp.clip(before + 1, 0, length - 1)
        nearest = xp.round(place).astype(xp.int32)

        def change(fields: dict[str, Array]) -> dict[str, Array]:
            found = {n: v[nearest] if meaning_in(n, spec) == "mask" else v for n, v in fields.items()}
            signal = fields["image"]
            values = signal.astype(xp.float32)
            stretched = values[before] + share * (values[after] - values[before])
            whole = np.issubdtype(np.dtype(signal.dtype), np.integer)
            return {**found, "image": (xp.round(stretched) if whole else stretched).astype(signal.dtype)}

        return with_chance(xp, words[0], self.probability, fields, change)


@dataclass(frozen=True)
class _AxisMask(ForExample):
    """Spans along an axis that are replaced by the mean.

    Attributes:
        width: exclusive upper bound of a span's width, uniform from 0 on.
        count: number of spans.
    """

    width: AtLeast1
    count: AtLeast1 = 1
    needs: ClassVar[Needs] = "normalized"
    ranks: ClassVar = (2, 3)
    axis: ClassVar[int] = 0

    def word_count(self) -> int:
        """Return how many random words an example uses."""
        return 2 * self.count

    def __post_init__(self) -> None:
        if self.where == "host":
            raise UsageError(f"{self.name} takes normalized inputs, which are on the device: leave where out")

    def one(self, xp: Any, fields: dict[str, Array], words: Array, spec: Spec) -> dict[str, Array]:
        """Mask the spans of one example."""
        inputs = fields["image"]
        length = inputs.shape[self.axis]
        if self.width > length:
            raise UsageError(f"{self.name}: width {self.width} is more than the {length} of these inputs")
        place = xp.arange(length, dtype=xp.int32)
        masked = xp.zeros(length, bool)
        for span in range(self.count):
            width = below(xp, words[2 * span], self.width + 1)
            room = (length - width + 1).astype(xp.uint32)
            start = (((words[2 * span + 1] >> xp.uint32(16)) * room) >> xp.uint32(16)).astype(xp.int32)
            masked = masked | ((place >= start) & (place < start + width))
        shape = [length if axis == self.axis else 1 for axis in range(inputs.ndim)]
        return {**fields, "image": xp.where(masked.reshape(shape), xp.zeros((), inputs.dtype), inputs)}


@register_transform("time_mask")
@dataclass(frozen=True)
class TimeMask(_AxisMask):
    """Sets spans of time to the mean: the first axis of a spectrogram (time, frequency) or a signal (SpecAugment).

    D. S. Park et al., SpecAugment (Interspeech 2019, arXiv 1904.08779): LibriSpeech basic uses 100 steps of 10 ms,
    once.

    Attributes:
        width: maximum width of a span in time steps, drawn uniformly from 0 on.
        count: number of spans.
    """

    name: ClassVar = "time_mask"


@register_transform("freq_mask")
@dataclass(frozen=True)
class FreqMask(_AxisMask):
    """Sets bands of frequency to the mean: the second axis of a spectrogram (time, frequency) (SpecAugment).

    D. S. Park et al., SpecAugment (Interspeech 2019, arXiv 1904.08779): LibriSpeech basic uses 27 of 80 bins, once.

    Attributes:
        width: maximum width of a band in bins, drawn uniformly from 0 on.
        count: number of bands.
    """

    name: ClassVar = "freq_mask"
    axis: ClassVar = 1
