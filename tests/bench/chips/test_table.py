"""Chips by name, and the bound of a program on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from resnet_jax.bench.chips.bound import bound
from resnet_jax.bench.chips.program import read_program
from resnet_jax.bench.chips.table import CHIPS, parse_chips
from resnet_jax.errors import UsageError

TPU = read_program(Path(__file__).with_name("tpu.hlo").read_text())


def test_every_figure_has_a_source_and_is_of_the_right_size():
    for chip in CHIPS.values():
        assert chip.sources
        assert chip.assumptions
        assert chip.peak["bf16"] > 100 * chip.memory_bandwidth > 5e13, chip.name
        assert chip.memory > 15e9
        assert 10e9 < chip.link < 1e12
        assert bool(chip.target) == (chip.platform == "gpu")
        if chip.platform == "gpu":
            assert f"memory_bandwidth: {chip.memory_bandwidth:.0f} " in chip.target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v9:2x2", "unknown chip 'v9'"),
        ("v5e", "with 2 sides, such as v5e:4x4"),
        ("v4:2x2", "with 3 sides, such as v4:4x4x4"),
        ("v5e:0x4", "with 2 sides"),
        ("v5e:3x3", "that 2 divides, or is one chip"),
        ("v5e:32x32", "at most 256 chips"),
        ("h100:", "or h100:N"),
        ("h100:12", "N to 8 or a multiple of it"),
        ("h100:2x4", "or h100:N"),
    ],
)
def test_chips_that_cannot_be(text, message):
    with pytest.raises(UsageError, match=message):
        parse_chips(text)


def test_how_far_and_how_fast_chips_are_apart():
    assert parse_chips("v5e:1x1").hops(1) == 0
    assert parse_chips("v5e:2x2").hops(4) == 2, "across the corner"
    assert parse_chips("v5e:4x4").hops(4) == 1
    assert parse_chips("v5e:4x8").hops(32) == 3 + 7
    assert parse_chips("v5e:16x16").hops(256) == 8 + 8, "rings"
    assert parse_chips("v4:4x4x4").hops(64) == 6
    assert parse_chips("v5e:2x2").bandwidth(4) == 2 * 50e9
    assert parse_chips("v5e:4x4").bandwidth(16) == 4 * 50e9
    assert parse_chips("h100:8").bandwidth(8) == 450e9
    assert parse_chips("h100:16").bandwidth(16) == 50e9
    assert parse_chips("h100:16").hops(16) == 8


@pytest.mark.parametrize("text", ["v5e:16x16", "v4:8x8x8"])
def test_some_of_the_chips_are_not_said_to_be_farther_apart_than_they_can_lie(text):
    """In a square or a cube of them, whose corners are (side - 1) x axes apart; and the hops grow with the group."""
    chips = parse_chips(text)
    hops = [chips.hops(group) for group in range(1, chips.count)]
    assert hops == sorted(hops)
    for side in range(2, min(chips.shape)):
        assert 1 <= chips.hops(side**chips.chip.axes) <= (side - 1) * chips.chip.axes


def test_the_bound_of_a_program():
    chips = parse_chips("v5e:2x2")
    found = bound(TPU, chips, images=512, devices=4)
    assert found["arithmetic"] == pytest.approx(TPU.operations["bf16"] / 197e12)
    assert found["memory"] == pytest.approx(TPU.bytes_moved / 819e9)
    assert found["latency"] == pytest.approx(4e-6), (
        "two sums over chips, two hops each; beside the gather something runs"
    )
    sums, gather = 2 * 2 * (3 / 4) * 64 / 100e9, (3 / 4) * 64 * 64 * 4 / 100e9
    assert found["links"] == pytest.approx(sums + gather)
    assert max(found["arithmetic"], found["memory"]) * 0.5 < found["kernels"] <= found["step"]
    assert found["step"] == pytest.approx(found["kernels"] + 4e-6 + sums)
    assert found["images_per_second"] == pytest.approx(512 / found["step"])
    halves = bound(TPU, chips, images=512, devices=8)
    assert halves["kernels"] == pytest.approx(2 * found["kernels"]), "a core has half of its chip"


def test_a_gpu_waits_between_kernels():
    chips = parse_chips("h100")
    found = bound(dataclasses.replace(TPU, collectives=()), chips, images=128, devices=1)
    assert found["launches"] == pytest.approx(6 * 0.5e-6)
    assert found["step"] == pytest.approx(found["kernels"] + found["launches"])
    assert found["latency"] == found["links"] == 0
