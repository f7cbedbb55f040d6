"""Accelerators by name: memory, bandwidth, arithmetic, links and latency, each figure with its source.

Peaks are the vendors' figures for dense arithmetic; GB means 10^9 bytes. Unpublished figures are assumptions, listed in
:attr:`Chip.assumptions`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Literal

from resnet_jax.errors import UsageError, either

GIB = 2**30
#: Share of a GPU's memory that JAX preallocates, unless XLA_CLIENT_MEM_FRACTION says otherwise
#: (docs.jax.dev/en/latest/201/gpu-memory.html).
TAKEN_OF_A_GPU = 0.75


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
        name: name to request it by.
        platform: ``tpu`` or ``gpu``.
        memory: size of its main memory in bytes.
        memory_bandwidth: bytes per second between it and the cores.
        peak: floating-point operations per second by dtype of the operands, without sparsity.
        link: bytes per second over one link in one direction. A GPU's links count as one, to the switch.
        axes: dimensions of the network formed by a TPU's links.
        between_hosts: bytes per second in one direction from a chip to those of other hosts; None: by the same links.
        of_host: chips per host.
        most: maximum number of chips of a job that are connected by these links.
        hop_seconds: minimum latency of a message from chip to chip.
        collective_seconds: minimum time of a collective besides its hops.
        launch_seconds: time between the end of a kernel and the start of the next.
        clock: cycles per second, for the compiler's own estimates; None: unknown.
        target: for a GPU, what the compiler needs to know about it.
        sources: sources of the figures.
        assumptions: figures that nobody publishes.
    """

    name: str
    platform: Literal["tpu", "gpu"]
    memory: int
    memory_bandwidth: float
    peak: dict[str, float]
    link: float
    axes: int
    between_hosts: float | None
    of_host: int
    most: int
    hop_seconds: float
    collective_seconds: float
    launch_seconds: float
    clock: float | None
    target: str
    sources: tuple[str, ...]
    assumptions: tuple[str, ...]

    def operations_a_second(self, dtype: str) -> float:
        """Return the peak for operands of a dtype in HLO's spelling; for a dtype without one, that of ``f32``."""
        return self.peak.get(dtype, self.peak["f32"])


_TPU_ASSUMED = (
    "a collective takes its hops and nothing else",
    "f32 operands: multiplied in bfloat16, XLA's default precision on a TPU",
    "nothing between kernels: a TPU runs its program without the host",
)
_TPU_HOP = "a hop: 'typically around 1us', How to Scale Your Model, part 3 (jax-ml.github.io/scaling-book/sharding)"
_GPU_ASSUMED = (
    "0.5 us between kernels: of a CUDA graph on a V100 (NVIDIA, 'Getting Started with CUDA Graphs': 3.4 us for kernels "
    "of 2.9 us), taken for every GPU",
    "0.6 us for a hop between hosts too, for which NCCL's model has 5.0 us",
    "f32 operands: multiplied in TF32, XLA's default precision on this GPU",
    "arrays that the L2 cache still holds are counted as read from memory",
)
_GPU_SOURCES = (
    "between hosts: a 400 Gb/s (A100: 200 Gb/s) network port for each GPU, as in NVIDIA's DGX",
    "6.8 us for a collective, 0.6 us for a hop: base and NVLink latency of a tree with protocol LL in NCCL's tuning "
    "model (github.com/NVIDIA/nccl, src/graph/tuning.cc, June 2026)",
    "TF32 and other peaks: half of what the datasheet gives with sparsity",
)


def _tpu(
    name: str, memory: int, bandwidth: float, peak: float, int8: float, link: float, axes: int, most: int,
    clock: float | None, source: str,
) -> Chip:  # fmt: skip
    peaks = {"bf16": peak, "f16": peak, "f32": peak, "s8": int8, "u8": int8}
    sources = (source, "link: bidirectional ICI bandwidth per chip / links / 2 directions", _TPU_HOP)
    if clock:
        sources = (*sources, "clock: peak / (cores x MXUs x 128 x 128 x 2)")
    return Chip(
        name,
        "tpu",
        memory,
        bandwidth,
        peaks,
        link,
        axes,
        None,
        4,
        most,
        1e-6,
        0.0,
        0.0,
        clock,
        "",
        sources,
        _TPU_ASSUMED,
    )


def _gpu(
    name: str, memory: int, bandwidth: float, peaks: dict[str, float], link: float, between_hosts: float, cores: int,
    fpus: int, shared: int, optin: int, l2: int, ghz: float, major: int, described: str, source: str,
) -> Chip:  # fmt: skip
    target = (
        "gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 "
        f"shared_memory_per_core: {shared} threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: {fpus} "
        "block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 "
        f"memory_bandwidth: {int(bandwidth)} l2_cache_size: {l2} clock_rate_ghz: {ghz} device_memory_size: {memory} "
        f"shared_memory_per_block_optin: {optin} cuda_compute_capability {{ major: {major} }} "
        "registers_per_core_limit: 65536 registers_per_block_limit: 65536 } "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 9 } '
        f'device_description_str: "{described}"'
    )
    sources = (source, *_GPU_SOURCES)
    return Chip(
        name, "gpu", memory, bandwidth, peaks, link, 1, between_hosts, 8, 2**14, 0.6e-6, 6.8e-6, 0.5e-6, None, target,
        sources, _GPU_ASSUMED,
    )  # fmt: skip


_HOPPER = {"bf16": 989e12, "f16": 989e12, "f32": 494e12, "f64": 67e12, "s8": 1979e12}
_AMPERE = {"bf16": 312e12, "f16": 312e12, "f32": 156e12, "f64": 19.5e12, "s8": 624e12}

CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        _tpu(
            "v4", 32 * GIB, 1200e9, 275e12, 275e12, 50e9, 3, 4096, 1.05e9,
            "docs.cloud.google.com/tpu/docs/v4; links: 6 of 50 GB/s, arXiv 2304.01433, table 4",
        ),
        _tpu("v5e", 16 * GIB, 819e9, 197e12, 393e12, 50e9, 2, 256, 1.5e9, "docs.cloud.google.com/tpu/docs/v5e"),
        _tpu(
            "v5p", 95 * GIB, 2765e9, 459e12, 918e12, 100e9, 3, 6144, 1.75e9,
            "docs.cloud.google.com/tpu/docs/v5p-training",
        ),
        _tpu("v6e", 32 * GIB, 1638e9, 918e12, 1836e12, 100e9, 2, 256, None, "docs.cloud.google.com/tpu/docs/v6e"),
        _gpu(
            "a100", 84_987_740_160, 2039e9, _AMPERE, 300e9, 25e9, 108, 64, 167_936, 166_912, 41_943_040, 1.41, 8,
            "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB SXM datasheet; NVLink 600 GB/s in both directions together",
        ),
        _gpu(
            "h100", 84_978_434_048, 3352.32e9, _HOPPER, 450e9, 50e9, 132, 128, 233_472, 232_448, 52_428_800, 1.98, 9,
            "NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM datasheet; NVLink 900 GB/s in both directions together",
        ),
        _gpu(
            "h200", 150_110_011_392, 4800e9, _HOPPER, 450e9, 50e9, 132, 128, 233_472, 232_448, 52_428_800, 1.98, 9,
            "NVIDIA H200", "NVIDIA H200 SXM datasheet; NVLink 900 GB/s in both directions together",
        ),
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Chips:
    """A number of chips of one kind, and how they are connected.

    Attributes:
        chip: the kind.
        shape: for TPUs the sides of the slice; for GPUs (hosts, GPUs per host).

    >>> chips = parse_chips("v5e:4x4")
    >>> chips.count, chips.text, chips.hops(16), chips.bandwidth(16) / 1e9
    (16, 'v5e:4x4', 6, 200.0)
    >>> parse_chips("h100:16").shape, parse_chips("a100").text
    ((2, 8), 'a100')
    """

    chip: Chip
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def text(self) -> str:
        """The text to request them by."""
        if self.chip.platform == "gpu":
            return self.chip.name if self.count == 1 else f"{self.chip.name}:{self.count}"
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    def hops(self, group: int) -> int:
        """Return the minimum distance in chips from which a chip must receive data, given how many take part.

        A side of 16 of a slice of v5e or v6e, and a side divisible by 4 of the others, is closed to a ring.
        """
        if group <= 1:
            return 0
        if self.chip.platform == "gpu":
            return 2 * math.ceil(math.log2(group))  # up a tree and down again
        if group < self.count:  # as near to one as other chips can lie
            return next(far for far in range(1, group) if _within(far, self.chip.axes) >= group)
        closed = 16 if self.chip.axes == 2 else 4
        return sum(side // 2 if side % closed == 0 else side - 1 for side in self.shape)

    def bandwidth(self, group: int) -> float:
        """Return the bytes per second that a chip can send to the participants, over all its links together."""
        if self.chip.platform == "gpu":
            inside = self.chip.between_hosts is None or group <= self.chip.of_host
            return self.chip.link if inside else self.chip.between_hosts or self.chip.link
        return self.chip.link * max(sum(min(side - 1, 2) for side in self.shape), 1)


def _within(far: int, axes: int) -> int:
    """Return how many chips of an infinite grid are within this many links of one, including it.

    >>> [_within(far, 2) for far in range(4)], [_within(far, 3) for far in range(4)]
    ([1, 5, 13, 25], [1, 7, 25, 63])
    """
    if axes == 0:
        return 1
    return sum(_within(far - abs(step), axes - 1) for step in range(-far, far + 1))


def parse_chips(text: str) -> Chips:
    """Parse ``v5e:4x4``, ``v4:2x2x1``, ``h100`` or ``h100:8``.

    Raises:
        UsageError: if there is no such chip, or no such number or arrangement of them.
    """
    name, colon, rest = text.strip().lower().partition(":")
    if name not in CHIPS:
        raise UsageError(f"unknown chip {name!r}: --chips takes {either(list(CHIPS))}, such as v5e:4x4 or h100:8")
    chip = CHIPS[name]
    if chip.platform == "gpu":
        count = int(rest) if re.fullmatch(r"[1-9]\d*", rest) else 0 if colon else 1
        if count == 0 or (count > chip.of_host and count % chip.of_host):
            raise UsageError(f"--chips {text}: write {name}, or {name}:N with N to {chip.of_host} or a multiple of it")
        return Chips(chip, (max(count // chip.of_host, 1), min(count, chip.of_host)))
    sides = tuple(int(side) for side in rest.split("x")) if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", rest) else ()
    if len(sides) != chip.axes:
        example = "x".join(["4"] * chip.axes)
        raise UsageError(f"--chips {text}: write the slice with {chip.axes} sides, such as {name}:{example}")
    if len(sides) > 1 and math.prod(sides) > 1 and (sides[0] % 2 or sides[1] % 2):
        raise UsageError(f"--chips {text}: a slice has a first and second side that 2 divides, or is one chip")
    if math.prod(sides) > chip.most:
        raise UsageError(f"--chips {text}: a slice of {name} has at most {chip.most:,} chips")
    return Chips(chip, sides)
