from __future__ import annotations

import threading

import numpy as np
import pytest

from resnet_jax.data import in_memory as memory
from resnet_jax.data.folder import load_folder
from resnet_jax.data.in_memory import materialize
from resnet_jax.data.pipeline import EvalBatches
from resnet_jax.data.records import ArrayRecords, Subset, in_memory
from resnet_jax.data.transform import Geometry
from resnet_jax.errors import DataError


@pytest.fixture
def records(make_folder, monkeypatch):
    monkeypatch.setattr(memory, "CHUNK", 2)
    return load_folder(str(make_folder({"a": 3, "b": 4}))).splits["all"]


@pytest.mark.parametrize("geometry", [Geometry(), Geometry(4)])
def test_pixels_labels_and_names_stay_the_same(records, geometry):
    stored = materialize(records, geometry, training=True, threads=2)
    assert isinstance(stored, ArrayRecords)
    assert stored.labels.tolist() == records.labels.tolist()
    for i in range(7):
        np.testing.assert_array_equal(stored[i]["image"], geometry.eval_image(records[i]["image"]))
        assert stored.describe(i) == records.describe(i)
    lazy, fast = (list(EvalBatches(r, 3, geometry)) for r in (records, stored))
    assert all((a["image"] == b["image"]).all() for a, b in zip(lazy, fast, strict=True))


def test_a_subset_is_decoded_alone(records, monkeypatch):
    read = []
    monkeypatch.setattr(type(records), "image", lambda self, i: read.append(i) or np.zeros((6, 5, 3), np.uint8))
    stored = materialize(Subset(records, np.array([6, 1])), Geometry(), training=True)
    assert stored.labels.tolist() == [1, 0]
    assert set(read) == {6, 1}
    assert stored.describe(0) == records.describe(6)


def test_random_crops_are_left_for_training_and_done_for_evaluation(records):
    geometry = Geometry(4, "random_resized")
    assert materialize(records, geometry, training=True) is records
    stored = materialize(records, geometry, training=False)
    np.testing.assert_array_equal(stored[5]["image"], geometry.eval_image(records[5]["image"]))


def test_too_many_pixels_are_left_on_disk(records):
    size = 7 * 6 * 5 * 3
    assert materialize(records, Geometry(), training=True, limit_bytes=size - 1) is records
    assert in_memory(materialize(records, Geometry(), training=True, limit_bytes=size))


def test_what_is_in_memory_is_not_copied():
    stored = ArrayRecords(np.zeros((4, 6, 6, 3), np.uint8), np.arange(4))
    part = Subset(stored, np.array([2, 0]))
    for geometry in (Geometry(), Geometry(6)):
        assert materialize(stored, geometry, training=True) is stored
        assert materialize(part, geometry, training=True) is part
    smaller = materialize(part, Geometry(3), training=True)
    assert smaller[1]["image"].shape == (3, 3, 3)


def test_the_first_bad_image_is_reported_and_the_threads_end(records):
    for i in (2, 5):
        with open(records.paths[i], "wb") as file:
            file.write(b"spoilt")
    for _ in range(3):
        with pytest.raises(DataError, match=r"a/002\.png: this is text and no image"):
            materialize(records, Geometry(), training=True, threads=4)
    assert not [t for t in threading.enumerate() if t.name.startswith("images")]
