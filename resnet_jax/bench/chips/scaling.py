"""From the program of a few chips to bounds for many: what limits a training on 1 to 1,024 chips.

A data-parallel program does the same on each chip whatever their number: its kernels and collectives come from one
compilation. With more chips, the hops, the shares, the input pipeline, and the bytes that every chip gathers from all
others change. The formula is :func:`scale`; its assumptions are the fields of :class:`Assumptions`, each with its
source or marked as assumed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from resnet_jax.bench.chips.bound import SENT
from resnet_jax.bench.chips.table import Chips, parse_chips

#: Slices of 1 to 1,024 chips that are as close to squares and cubes as possible; beyond a pod, several of them.
SQUARES = {1: (1, 1), 4: (2, 2), 16: (4, 4), 64: (8, 8), 256: (16, 16)}
CUBES = {1: (1, 1, 1), 4: (2, 2, 1), 16: (2, 2, 4), 64: (4, 4, 4), 256: (4, 8, 8), 1024: (8, 8, 16)}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The batch size up to which a training method for an ImageNet ResNet keeps its accuracy.

    Attributes:
        name: name of the method.
        batch: the largest batch size with the accuracy of a small one.
        source: where that is shown.
    """

    name: str
    batch: int
    source: str


RECIPES = (
    Recipe("He et al.: SGD, one rate", 256, "arXiv 1512.03385, section 3.4: batch 256, rate 0.1"),
    Recipe("Goyal et al.: rate in proportion, warmup", 8192, "arXiv 1706.02677, figure 1: no loss up to 8,192"),
    Recipe("LARS", 32768, "arXiv 1709.05011 (You et al.): 32,768 in 90 epochs, 75.4 % against 75.3 % at 256"),
)


#: Sources of :class:`Assumptions`. Unpublished ones begin with "assumed".
SOURCES = {
    "examples": "ImageNet-1k's training images, arXiv 1409.0575",
    "epochs": "arXiv 1706.02677, section 5.1",
    "image_bytes": "the 147,897,477,120 bytes of ImageNet-1k's training archive / 1,281,167",
    "chips_of_host": "docs.cloud.google.com/tpu/docs/v5e: ct5lp-hightpu-4t has 4, half of a host of 8",
    "decoded_a_second": "FFCV, arXiv 2306.12517: 31,278 JPEGs of 512 pixels and quality 90 on 96 virtual cores",
    "cores_of_host": "docs.cloud.google.com/tpu/docs/v5e: 112 virtual cores of a ct5lp-hightpu-4t",
    "network": "docs.cloud.google.com/tpu/docs/v5e: 2 x 100 Gb/s of a host of 8 chips, half for 4",
    "storage": "assumed: 1 GB/s into an object store, a twelfth of the network",
    "checkpoints": "assumed: one an epoch",
    "dollars": "assumed: v5e on demand in us-central1, as cloud.google.com/tpu/pricing had it when this was written",
    "between_pods": "assumed: 50 us over the data centre's network",
    "pod_network": "docs.cloud.google.com/tpu/docs/v5e: 6.4 Tb/s of a pod / 256 chips",
}


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """Inputs besides the compiled program, each from :data:`SOURCES`; change one to see its effect.

    Attributes:
        examples: examples per pass.
        epochs: epochs of a run.
        image_bytes: size of a stored image.
        chips_of_host: chips fed by one host.
        decoded_a_second: images that a virtual core decodes and crops per second.
        cores_of_host: virtual cores of a host.
        network: bytes per second into a host.
        storage: bytes per second that a host writes.
        checkpoints: checkpoints of a run.
        dollars: price of a chip per hour.
        between_pods: seconds of a collective between pods.
        pod_network: bytes per second of a chip between pods.
    """

    examples: int = 1_281_167
    epochs: float = 90
    image_bytes: float = 147_897_477_120 / 1_281_167
    chips_of_host: int = 4
    decoded_a_second: float = 31_278 / 96
    cores_of_host: int = 112
    network: float = 12.5e9
    storage: float = 1e9
    checkpoints: float = 90
    dollars: float = 1.20
    between_pods: float = 50e-6
    pod_network: float = 6.4e12 / 8 / 256

    def table(self) -> str:
        """Return each with its source."""
        return "\n".join(f"  {name:<18}{value:>16,.10g}  {SOURCES[name]}" for name, value in vars(self).items())


@dataclasses.dataclass(frozen=True)
class Point:
    """A training on this many chips; every time is a lower bound, so every rate and cost is the best case.

    Attributes:
        chips: number of chips.
        batch: images per step.
        kernels: seconds of a step spent in kernels.
        waits: seconds of a step in which chips wait for one another's numbers.
        links: seconds of a step in which bytes are sent and nothing else is done.
        step: seconds of a step.
        images_a_second: throughput on all chips.
        efficiency: throughput relative to that of the same number of independent chips.
        decode_share: core time needed for decoding relative to what is available; above 1 the hosts are too slow for
            the bound.
        network_share: the same for the network that delivers stored images.
        checkpoint_share: fraction of the run spent writing checkpoints, if writing stops the training.
        recipe: the simplest training method that keeps its accuracy at this batch size; empty if none is known.
        hours: duration of a run at best.
        dollars: cost of a run at best.
    """

    chips: int
    batch: int
    kernels: float
    waits: float
    links: float
    step: float
    images_a_second: float
    efficiency: float
    decode_share: float
    network_share: float
    checkpoint_share: float
    recipe: str
    hours: float
    dollars: float


def slice_of(name: str, chips: int) -> tuple[Chips, int]:
    """Return the slice for this many chips, and the number of slices: beyond a pod several.

    >>> [(found.text, pods) for found, pods in (slice_of("v5e", 64), slice_of("v5e", 1024), slice_of("v4", 1024))]
    [('v5e:8x8', 1), ('v5e:16x16', 4), ('v4:8x8x16', 1)]
    """
    kinds = (
        CUBES if parse_chips(f"{name}:1x1x1" if name in ("v4", "v5p") else f"{name}:1x1").chip.axes == 3 else SQUARES
    )
    largest = max(size for size in kinds if size <= chips)
    return parse_chips(f"{name}:{'x'.join(map(str, kinds[largest]))}"), math.ceil(chips / largest)


def scale(record: Mapping[str, Any], chips: int, assumed: Assumptions | None = None) -> Point:
    """Return the bound of a training on some chips, from the plan of a slice of at least four.

    Args:
        record: a plan with the state replicated on each chip, as stored by ``--measure`` of experiments/scaling.py:
            ``chips``, ``batch_per_chip``, ``bound.kernels``, ``collectives`` (kind, bytes, group, times, overlapped)
            and ``state_bytes``.
        chips: number of chips.
        assumed: what the program does not contain.
    """
    assumed = assumed or Assumptions()
    name = record["chips"].partition(":")[0]
    found, pods = slice_of(name, chips)
    count, kernels = found.count * pods, record["bound"]["kernels"]
    waits = links = 0.0
    for each in record["collectives"] if count > 1 else ():
        size = each["bytes"]
        if each["kind"] == "all-gather":  # the state is not cut: what is gathered is a part of each chip's own
            size *= count / (each["group"] or parse_chips(record["chips"]).count)
        seconds = SENT.get(each["kind"], lambda n: 1.0)(count) * size / found.bandwidth(found.count)
        late = found.chip.collective_seconds + found.hops(found.count) * found.chip.hop_seconds
        if pods > 1:
            late += assumed.between_pods
            seconds += SENT.get(each["kind"], lambda n: 1.0)(pods) * size / found.count / assumed.pod_network
        if not each["overlapped"]:
            waits += each["times"] * late
            links += each["times"] * seconds
    step = kernels + waits + links
    batch = count * record["batch_per_chip"]
    rate, alone = batch / step, record["batch_per_chip"] / kernels
    hosts = math.ceil(count / assumed.chips_of_host)
    seconds = assumed.examples * assumed.epochs / rate
    written = assumed.checkpoints * record["state_bytes"] / assumed.storage
    hours = (seconds + written) / 3600
    return Point(
        chips=count,
        batch=batch,
        kernels=kernels,
        waits=waits,
        links=links,
        step=step,
        images_a_second=rate,
        efficiency=rate / (count * alone),
        decode_share=rate / (hosts * assumed.cores_of_host * assumed.decoded_a_second),
        network_share=rate * assumed.image_bytes / (hosts * assumed.network),
        checkpoint_share=written / (seconds + written),
        recipe=next((recipe.name for recipe in RECIPES if batch <= recipe.batch), ""),
        hours=hours,
        dollars=hours * count * assumed.dollars,
    )


def most_chips(record: Mapping[str, Any], recipe: Recipe) -> int:
    """Return the number of chips beyond which a recipe's batch is too small to give each as much as in the record."""
    return recipe.batch // record["batch_per_chip"]
