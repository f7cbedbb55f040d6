from __future__ import annotations

import os

import numpy as np
import pytest

from resnet_jax.data import npy
from resnet_jax.data.source import load_dataset
from resnet_jax.errors import DataError

X = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), np.uint8)
Y = np.arange(12) % 3


def put(root, **arrays):
    for name, array in arrays.items():
        np.save(root / f"{name}.npy", array)
    return f"npy:{root}"


def test_a_folder_is_what_the_npz_of_its_arrays_is(tmp_path):
    names = np.array(["ant", "bee", "cow"])
    arrays = {"x_train": X, "y_train": Y, "x_test": X[:6], "y_test": Y[:6], "class_names": names}
    np.savez(tmp_path / "all.npz", **arrays)
    of_npz, of_npy = load_dataset(f"npz:{tmp_path}/all.npz"), load_dataset(put(tmp_path, **arrays))
    assert of_npy.class_names == of_npz.class_names
    for split, records in of_npz.splits.items():
        np.testing.assert_array_equal(of_npy.splits[split].images, records.images)
        np.testing.assert_array_equal(of_npy.splits[split].labels, records.labels)
    assert load_dataset(f"npy:{tmp_path}", channels=1).splits["test"][0]["image"].shape == (6, 5, 1)


def test_large_arrays_are_mapped_from_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "LEAST_MAPPED", 1000)
    source = put(tmp_path, x=X, y=Y)
    records = load_dataset(source).splits["all"]
    base = records.images
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    np.testing.assert_array_equal(records[7]["image"], X[7])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("y.npy", None, "no array 'y'; found x"),
        ("x.npy", b"", r"x\.npy: cannot read it as \.npy"),
        ("x.npy", b"text", r"x\.npy: cannot read it as \.npy"),
        ("x.npy", "cut", r"x\.npy: cannot read it as \.npy"),
        ("x.npy", "objects", r"x\.npy: cannot read it as \.npy \(.*[Oo]bject"),
    ],
)
@pytest.mark.parametrize("least", [100, 1 << 20])
def test_files_that_are_damaged_or_hold_objects_are_named(tmp_path, monkeypatch, name, data, message, least):
    monkeypatch.setattr(npy, "LEAST_MAPPED", least)
    source = put(tmp_path, x=X, y=Y)
    path = tmp_path / name
    if data is None:
        path.unlink()
    elif data == "objects":
        np.save(path, np.array([{}] * 50))
    elif data == "cut":
        os.truncate(path, path.stat().st_size - 40)
    else:
        path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        load_dataset(source)


def test_places_that_are_none_say_what_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"no \.npy files in it; need files called x and y, or x_train"):
        load_dataset(f"npy:{tmp_path}")
    with pytest.raises(DataError, match="there is no such folder"):
        load_dataset(f"npy:{tmp_path}/gone")
    put(tmp_path, x=X)
    with pytest.raises(DataError, match="this is a file; name the folder it is in"):
        load_dataset(f"npy:{tmp_path}/x.npy")


def test_a_path_alone_is_recognised(tmp_path):
    from resnet_jax.data.look import source_of

    assert source_of(str(tmp_path)) == f"folder:{tmp_path}"
    assert source_of(put(tmp_path, x=X, y=Y).removeprefix("npy:")) == f"npy:{tmp_path}"
