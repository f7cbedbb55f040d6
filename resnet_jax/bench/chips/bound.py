"""A lower bound on the time of a program on a chip, not a forecast.

Kernels run one after another, each for at least the longer of its arithmetic at the chip's peak and its bytes at the
chip's bandwidth. A collective with no kernels running alongside adds its hops, and its bytes over all links of the chip
at once. Not included are partially filled units (64 channels on a unit of 128 x 128), bytes that a kernel reads again,
waiting for the slowest chip, and the host.
"""

from __future__ import annotations

from resnet_jax.bench.chips.collectives import Collective
from resnet_jax.bench.chips.program import Program
from resnet_jax.bench.chips.table import Chips

#: Bytes that each device sends, relative to the bytes of a collective, when (n) take part.
SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
}


def bound(program: Program, chips: Chips, *, images: int, devices: int) -> dict[str, float]:
    """Return the minimum seconds of one step and its parts, and the resulting images per second.

    Args:
        program: the program of one device.
        chips: where it runs.
        images: images per step, on all chips.
        devices: number of devices that the program is for; two per chip if each of its cores is one.

    Returns:
        ``arithmetic``, ``memory`` (if nothing else took time), ``kernels`` (the longer of both, kernel by kernel),
        ``launches``, ``links`` (bytes of all collectives), ``latency`` (of collectives without overlap), ``step`` and
        ``images_per_second``.
    """
    chip, parts = chips.chip, max(devices // chips.count, 1)
    bandwidth, peak = chip.memory_bandwidth / parts, 1 / parts

    def computing(operations: dict[str, int]) -> float:
        return sum(count / (chip.operations_a_second(dtype) * peak) for dtype, count in operations.items())

    kernels = sum(each.times * max(each.bytes / bandwidth, computing(each.operations)) for each in program.profile)
    blocking = [each for each in program.collectives if not each.overlapped]
    beside = sum(each.times * _sending(each, chips, devices) for each in program.collectives if each.overlapped)
    latency = sum(each.times * _latency(each, chips, devices) for each in blocking)
    sending = sum(each.times * _sending(each, chips, devices) for each in blocking)
    launches = program.kernels * chip.launch_seconds
    step = max(kernels + launches, beside) + latency + sending
    return {
        "arithmetic": computing(program.operations),
        "memory": program.bytes_moved / bandwidth,
        "kernels": kernels,
        "launches": launches,
        "links": sending + beside,
        "latency": latency,
        "step": step,
        "images_per_second": images / step if step else 0.0,
    }


def _group(collective: Collective, devices: int) -> int:
    return collective.group or devices


def _latency(collective: Collective, chips: Chips, devices: int) -> float:
    group = min(_group(collective, devices), chips.count)
    return 0.0 if group <= 1 else chips.chip.collective_seconds + chips.hops(group) * chips.chip.hop_seconds


def _sending(collective: Collective, chips: Chips, devices: int) -> float:
    group = _group(collective, devices)
    if group <= 1:
        return 0.0
    factor = SENT[collective.kind](group) if collective.kind in SENT else 1.0
    return factor * collective.bytes / chips.bandwidth(group)
