"""Whether images of the same distribution raise no alarm, and others do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from resnet_jax.deploy import drift
from resnet_jax.deploy.drift import Distance, Reference, Seen, input_statistics
from resnet_jax.deploy.drift_watch import Folder, Windows
from resnet_jax.errors import DamagedError, UsageError

MIX = np.random.default_rng(7).normal(size=(6, 24))


def draw(rng: np.random.Generator, count: int, *, shift: float = 0.0, dark: float = 0.0, shares=(4, 3, 2, 1)) -> Seen:
    """Features that depend on each other, as a network's do, rectified; classes of given shares."""
    features = np.maximum(rng.normal(size=(count, 6)) @ MIX + shift, 0).astype(np.float32)
    images = np.clip(rng.normal(0.5 - dark, 0.2, (count, 4, 4, 3)) + rng.normal(0, 0.1, (count, 1, 1, 1)), 0, 1)
    classes = rng.choice(len(shares), count, p=np.array(shares) / sum(shares))
    return Seen(features, input_statistics(images.astype(np.float32)), classes)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.of(draw(np.random.default_rng(0), 1500), 4, alarm=0.05, source="these", digest="d")


@pytest.mark.parametrize("size", [16, 50, 200])
def test_the_same_distribution_raises_alarms_as_rarely_as_is_said(reference, size):
    rng = np.random.default_rng(size)
    found = [reference.distance(draw(rng, size)) for _ in range(400)]
    rate = np.mean([bool(each.alarms) for each in found])
    assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    for kind in drift.KINDS:  # about 1, whatever the size: the distances are divided by what chance makes of them
        assert 0.8 < np.mean([each.values[kind] for each in found]) < 1.3, kind


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"shift": 1.0}, "features"), ({"dark": 0.15}, "input"), ({"shares": (1, 2, 3, 4)}, "classes")],
)
def test_another_distribution_raises_an_alarm_of_its_kind(reference, change, kind):
    rng = np.random.default_rng(3)
    found = [reference.distance(draw(rng, 100, **change)) for _ in range(20)]
    assert all(kind in each.alarms for each in found)
    others = [other for each in found for other in each.alarms if other != kind]
    assert len(others) <= 3


def test_features_that_are_independent_have_the_threshold_of_a_chi_square():
    from scipy.special import chdtri

    rng = np.random.default_rng(1)
    features = rng.normal(size=(1000, 10)).astype(np.float32)
    seen = Seen(features, features[:, :2], np.zeros(1000, np.int64))
    found = Reference.of(seen, 0, alarm=0.1, source="", digest="")
    assert list(found.thresholds) == ["features", "input"]  # half of the alarms each
    assert found.thresholds["features"] == pytest.approx(chdtri(10, 0.05) / 10, rel=0.08)
    assert found.thresholds["input"] == pytest.approx(chdtri(2, 0.05) / 2, rel=0.12)


def test_the_distance_of_classes_is_the_chi_square_of_two_samples():
    ours, theirs = np.array([12, 30, 8]), np.array([100, 120, 80])
    table = np.stack([ours, theirs])
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()  # the textbook's table of two rows
    statistic = ((table - expected) ** 2 / expected).sum()
    assert drift._chi_square(ours[None], theirs)[0] == pytest.approx(statistic / 2)


def test_a_distance_in_numbers():
    mean, variance = np.array([1.0, 2.0]), np.array([4.0, 1.0])
    reference = Reference(
        {"features": np.stack([mean, variance]), "input": np.stack([mean, variance])}, np.array([50, 50]), 100,
        np.array([16, 64]), {kind: np.array([2.0, 4.0]) for kind in drift.KINDS}, 0.01, "", "",
    )  # fmt: skip
    rows = np.tile(np.array([3.0, 2.0]), (32, 1))
    found = reference.distance(Seen(rows, rows, np.zeros(32, np.int64)))
    assert found.values["features"] == pytest.approx(((3 - 1) ** 2 / 4) / 2 / (1 / 32 + 1 / 100))
    assert found.thresholds["features"] == pytest.approx(3.0)  # halfway between 16 and 64, by their logarithms
    assert (found.shift, found.shares) == (1.0, 0.5)
    assert found.alarms == drift.KINDS
    for count, threshold in ((16, 2.0), (1000, 4.0)):
        window = Seen(rows[:1].repeat(count, 0), rows[:1].repeat(count, 0), np.zeros(count, np.int64))
        assert reference.distance(window).thresholds["input"] == threshold


def test_a_feature_that_was_always_0_does_not_decide(reference):
    rng = np.random.default_rng(5)
    seen, window = draw(rng, 500), draw(rng, 100)
    dead = dataclasses.replace(seen, features=np.concatenate([seen.features, np.zeros((500, 1), np.float32)], axis=1))
    found = Reference.of(dead, 4, alarm=0.05, source="", digest="")
    little = np.concatenate([window.features, np.full((100, 1), 1e-4, np.float32)], axis=1)
    assert not found.distance(dataclasses.replace(window, features=little)).alarms


def test_a_reference_is_read_as_it_was_written(reference, tmp_path):
    path = tmp_path / drift.FILE
    reference.write(path)
    window = draw(np.random.default_rng(9), 80)
    assert Reference.read(path, "d").distance(window) == reference.distance(window)
    with pytest.raises(UsageError, match="other weights"):
        Reference.read(path, "another")
    for data in (b"", b"no zip", path.read_bytes()[:-200]):
        path.write_bytes(data)
        with pytest.raises(DamagedError, match="create it again"):
            Reference.read(path, "d")
    np.savez(path, note=np.frombuffer(b"{}", np.uint8))
    with pytest.raises(DamagedError):
        Reference.read(path, "d")


def test_what_cannot_be(reference):
    few = draw(np.random.default_rng(0), 15)
    with pytest.raises(UsageError, match="15 images"):
        reference.distance(few)
    with pytest.raises(UsageError, match="needs 64"):
        Reference.of(few, 4, alarm=0.05, source="x", digest="")
    with pytest.raises(UsageError, match="alarm"):
        Reference.of(draw(np.random.default_rng(0), 100), 4, alarm=1e-6, source="x", digest="")
    other = draw(np.random.default_rng(0), 20)
    with pytest.raises(UsageError, match="24 features"):
        reference.distance(dataclasses.replace(other, features=other.features[:, :3]))


def test_windows_are_full_and_lose_no_image(reference):
    found: list[Distance] = []
    windows, rng = Windows(reference, 40, found.append), np.random.default_rng(2)
    for count in (10, 25, 90, 3):
        windows.add(draw(rng, count))
    assert ([each.images for each in found], windows.waiting) == ([40, 40, 40], 8)
    assert windows.finish() == 8
    windows.add(draw(rng, 20))
    assert (windows.finish(), found[-1].images) == (0, 20)


def test_a_folder_gives_every_file_once_and_none_that_is_being_written(tmp_path):
    import os
    import time

    old = time.time() - 100
    folder = Folder(str(tmp_path))
    for name in ("b.png", "a.jpg", "note.txt"):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (old, old))
    assert [path.rpartition("/")[2] for path in folder.new()] == ["a.jpg", "b.png"]
    fresh = tmp_path / "c.png"
    fresh.write_bytes(b"x")
    assert folder.new() == []
    fresh.write_bytes(b"xy")  # grows
    assert folder.new() == []
    assert folder.new() == [str(fresh)]
    assert folder.new() == []
