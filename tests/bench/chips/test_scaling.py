"""Bounds for many chips: by hand for a program of round numbers, and what must hold of any."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from resnet_jax.bench.chips.scaling import RECIPES, SOURCES, Assumptions, most_chips, scale, slice_of

#: 10 ms of kernels, two waits of a kilobyte, gradients of 100 MB in one that nothing overlaps and one that is.
RECORD = {
    "chips": "v5e:2x2",
    "batch_per_chip": 128,
    "bound": {"kernels": 0.010},
    "state_bytes": 200e6,
    "collectives": [
        {"kind": "all-reduce", "bytes": 1000, "times": 2, "group": 4, "overlapped": False},
        {"kind": "all-reduce", "bytes": 100e6, "times": 1, "group": 4, "overlapped": False},
        {"kind": "all-reduce", "bytes": 100e6, "times": 1, "group": 4, "overlapped": True},
    ],
}


def test_one_chip_waits_for_nobody():
    point = scale(RECORD, 1)
    assert (point.waits, point.links, point.step, point.efficiency) == (0, 0, 0.010, 1)
    assert point.images_a_second == pytest.approx(12_800)
    assert point.recipe.startswith("He")


def test_sixteen_chips_by_hand():
    point = scale(RECORD, 16)
    assert point.batch == 2048
    assert point.waits == pytest.approx(3 * 6e-6), "three that nothing overlaps, six hops of a microsecond"
    assert point.links == pytest.approx(2 * 15 / 16 * (100e6 + 2000) / 200e9)
    assert point.step == pytest.approx(0.010 + point.waits + point.links)
    assert point.efficiency == pytest.approx(0.010 / point.step)
    assert point.decode_share == pytest.approx(point.images_a_second / (4 * 112 * 31_278 / 96))
    assert point.recipe.startswith("Goyal")


def test_a_run_by_hand():
    assumed = Assumptions(examples=1000, epochs=2, checkpoints=4, storage=1e8, dollars=3.0)
    point = scale(RECORD, 1, assumed)
    seconds, written = 2000 / 12_800, 4 * 2.0
    assert point.hours == pytest.approx((seconds + written) / 3600)
    assert point.checkpoint_share == pytest.approx(written / (seconds + written))
    assert point.dollars == pytest.approx(3 * point.hours)


def test_more_chips_never_wait_less():
    points = [scale(RECORD, count) for count in (1, 4, 16, 64, 256, 1024)]
    assert [point.chips for point in points] == [1, 4, 16, 64, 256, 1024]
    for fewer, more in itertools.pairwise(points):
        assert more.waits >= fewer.waits
        assert more.images_a_second > fewer.images_a_second
        assert more.efficiency < 1
    assert points[1].efficiency < points[2].efficiency, "of four chips each has two links, of sixteen four"
    assert points[2].efficiency > points[3].efficiency > points[4].efficiency > points[5].efficiency
    assert slice_of("v5e", 1024)[1] == 4
    assert points[-1].waits > points[-2].waits + 3 * 49e-6, "between pods it takes longer"
    assert points[-1].recipe == "", "131,072 images a step are more than any of these recipes takes"


def test_the_batch_beyond_which_recipes_stop():
    assert [most_chips(RECORD, recipe) for recipe in RECIPES] == [2, 64, 256]
    half = dataclasses.replace(RECIPES[0], batch=64)
    assert most_chips(RECORD, half) == 0


def test_what_all_chips_gather_grows_with_them():
    gather = {"kind": "all-gather", "bytes": 4000, "times": 1, "group": 4, "overlapped": False}
    record = {**RECORD, "collectives": [gather]}
    assert scale(record, 16).links == pytest.approx(15 / 16 * 16_000 / 200e9)
    assert scale(record, 64).links == pytest.approx(63 / 64 * 64_000 / 200e9)


def test_every_assumption_has_a_source_or_is_called_assumed():
    assumed = Assumptions()
    assert set(SOURCES) == set(vars(assumed))
    lines = assumed.table().splitlines()
    assert len(lines) == len(SOURCES)
    assert [line.split()[0] for line in lines if "assumed:" in line] == [
        *("storage", "checkpoints", "dollars", "between_pods"),
    ]
