from __future__ import annotations

import os

import numpy as np
import pytest

from resnet_jax.data import verify
from resnet_jax.data.folder import load_folder
from resnet_jax.data.records import ArrayRecords, Subset
from resnet_jax.data.transform import Geometry
from resnet_jax.data.verify import check_readable, encoded_bytes
from resnet_jax.errors import DataError

CROPS = Geometry(4, "random_resized")


@pytest.fixture
def records(make_folder, monkeypatch):
    monkeypatch.setattr(verify, "CHUNK", 2)
    return load_folder(str(make_folder({"a": 3, "b": 4}))).splits["all"]


def test_all_images_are_decoded_once(records, monkeypatch):
    read = []
    image = type(records).image
    monkeypatch.setattr(type(records), "image", lambda self, i: read.append(i) or image(self, i))
    assert check_readable(records, CROPS)
    assert set(read) == set(range(7))
    read.clear()
    assert check_readable(Subset(records, np.array([5, 2])), CROPS)
    assert set(read) == {5, 2}


def test_the_first_broken_image_is_named(records):
    for i in (2, 5):
        with open(records.paths[i], "r+b") as file:
            file.truncate(60)
    with pytest.raises(DataError, match=r"a/002\.png: cannot decode these 60 bytes, which begin as a PNG image"):
        check_readable(records, CROPS, threads=4)


def test_images_of_another_size_are_found_where_no_size_is_given(make_folder, records):
    make_folder({"c": 1}, size=(9, 9))
    records = load_folder(str(make_folder.root)).splits["all"]
    assert check_readable(records, CROPS)
    with pytest.raises(DataError, match=r"c/000\.png is 9x9x3 but .* is 6x5x3"):
        check_readable(records, Geometry())


def test_of_too_many_bytes_none_is_read_and_that_is_told(records, monkeypatch):
    size = encoded_bytes(records)
    assert size == sum(os.path.getsize(path) for path in records.paths)
    assert encoded_bytes(Subset(records, np.array([0]))) == int(np.ceil(size / 7))
    monkeypatch.setattr(type(records), "image", None)
    assert not check_readable(records, CROPS, limit_bytes=size - 1)


def test_what_is_in_memory_needs_no_look():
    assert check_readable(ArrayRecords(np.zeros((4, 6, 6, 3), np.uint8), np.arange(4)), CROPS)
