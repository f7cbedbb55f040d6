from __future__ import annotations

import zipfile

import numpy as np
import pytest

from resnet_jax.data.npz import load_npz
from resnet_jax.errors import DataError

X = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


def save(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return str(tmp_path / "data.npz")


def test_one_split(tmp_path):
    dataset = load_npz(save(tmp_path, x=X, y=Y, ids=Y))
    assert dataset.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(dataset.splits["all"][4]["image"], X[4])
    assert dataset.splits["all"].labels.tolist() == Y.tolist()
    assert dataset.splits["all"].describe(1).endswith("data.npz")


def test_named_splits_and_classes_from_the_largest_label_of_all(tmp_path):
    arrays = {"x_train": X[:3], "y_train": Y[:3] % 2, "x_test": X[3:], "y_test": Y[3:] + 2}
    dataset = load_npz(save(tmp_path, **arrays))
    assert set(dataset.splits) == {"train", "test"}
    assert dataset.class_names == ("0", "1", "2", "3", "4")
    dataset = load_npz(save(tmp_path, **arrays, x_val=X[:1], y_val=Y[:1], class_names=np.array(list("abcde"))))
    assert set(dataset.splits) == {"train", "val", "test"}
    assert dataset.class_names == tuple("abcde")


def test_channels(tmp_path):
    path = save(tmp_path, x=X[..., 0], y=Y)
    assert load_npz(path).splits["all"][0]["image"].shape == (4, 5, 1)
    image = load_npz(path, 3).splits["all"][0]["image"]
    np.testing.assert_array_equal(image, np.repeat(X[0, ..., :1], 3, -1))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "no array 'y'; found x; need x and y, or x_train"),
        ({"y": Y}, "no array 'x'; found y"),
        (
            {"images": X, "labels": Y},
            r"found images, labels; .* np\.savez\('data\.npz', x=f\['images'\], y=f\['labels'\]\)",
        ),
        (
            {"X_train": X, "y_train": Y, "X_test": X, "y_test": Y},
            r"x_train=f\['X_train'\], y_train=f\['y_train'\], x_test=",
        ),
        ({"trainX": X, "trainY": Y}, r"x=f\['trainX'\], y=f\['trainY'\]"),
        ({"arr_0": X, "arr_1": Y}, r"x=f\['arr_0'\], y=f\['arr_1'\]"),
        ({"x_train": X, "y_train": Y}, "x_train and y_train without x_test or x_val; call them x and y"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y}, "found x, y, x_test, y_test; either x and y, .* not both"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "no array 'y_test'"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "x_val": X}, "no array 'y_val'"),
        ({}, "no array 'x_train'; found none"),
        ({"x": X, "y": Y[:5]}, r"labels are int64 \(5,\) for 6 images"),
        ({"x": X, "y": Y / 1}, r"classes are integers from 0 on; use y\.astype\(np\.int64\); values .* target_names"),
        ({"x": X, "y": Y / 2, "class_names": np.array(list("abc"))}, "float32 .*, but classes are integers 0..2"),
        ({"x": X, "y": Y, "label_names": np.array(list("abc"))}, r"labels are float32 \(6,\); .* one column for each"),
        ({"x": X, "y": Y / 2, "target_names": np.array(list("ab"))}, r"names of 2 targets; need values \(N, 2\)"),
        (
            {"x": X, "y": np.ones((6, 2)) * 3, "label_names": np.array(list("ab"))},
            r"labels \[3.0, 3.0\] at index 0 .* are not zeros and ones; 6 such rows",
        ),
        (
            {"x": X, "y": Y, "class_names": np.array(list("abc")), "target_names": np.array(["a"])},
            "found class_names and target_names; labels are of one kind",
        ),
        ({"x": X, "y": Y, "meaning": "picture"}, "meaning is 'picture'; need one of signal, image, volume"),
        ({"x": X, "y": np.eye(3)[Y]}, r"one-hot rows: use y\.argmax\(axis=1\)"),
        ({"x": X, "y": Y - 1}, "label -1 at index 0"),
        ({"x": X, "y": Y, "class_names": np.array(["a", "b"])}, "class_names has 2 names, .* 2, outside 0..1; need"),
        ({"x": X, "y": Y + 1, "class_names": np.array(list("abc"))}, "classes are counted from 0: use y - 1"),
        ({"x": X, "y": Y, "class_names": np.array([["a", "b", "c"]])}, r"need one name a class, of shape \(K,\)"),
        ({"x": X, "y": Y, "class_names": np.array([0.5, 1, 2])}, "class_names is float64; need texts"),
        ({"x": X, "y": Y * 0}, "the classes are 0; need at least two"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load_npz(save(tmp_path, **arrays))


def test_objects_are_not_unpickled(tmp_path):
    message = r"cannot read it as .npz \(y holds Python objects, .* save numbers instead, np\.array\(y\.tolist\(\)\)"
    with pytest.raises(DataError, match=message):
        load_npz(save(tmp_path, x=X, y=np.array([print] * 6, dtype=object)))
    with pytest.raises(DataError, match=r"class_names holds Python objects, .* np\.array\(class_names, dtype=str\)"):
        load_npz(save(tmp_path, x=X, y=Y, class_names=np.array(list("abc"), dtype=object)))


def test_names_may_be_bytes(tmp_path):
    assert load_npz(save(tmp_path, x=X, y=Y, class_names=np.array([b"a", b"b", b"c"]))).class_names == ("a", "b", "c")


def test_what_is_left_out_and_fractions_cut_to_zero_are_said(tmp_path):
    notes = load_npz(save(tmp_path, x=X, y=Y, ids=Y, index=Y, short=Y[:2], text=np.array(list("abcdef")))).notes
    assert notes == (
        "further arrays of every example: ids int32 ()",
        "arrays left out: index int64 (6,), short int64 (2,), text <U1 (6,)",
    )
    cut = (X / 255).astype(np.uint8)
    assert load_npz(save(tmp_path, x=cut, y=Y)).notes[0].startswith("x holds no value above 1 of 255: fractions")


def test_training_and_validation_images_alone(tmp_path):
    dataset = load_npz(save(tmp_path, x_train=X, y_train=Y, x_val=X, y_val=Y))
    assert dataset.origins == {"train": "x_train", "val": "x_val"}


def test_not_a_file_and_not_an_archive(tmp_path):
    with pytest.raises(DataError, match=r"gone\.npz: there is no such file; need an \.npz with x and y"):
        load_npz(str(tmp_path / "gone.npz"))
    whole = (tmp_path / save(tmp_path, x=X, y=Y)).read_bytes()
    for bad in (b"", b"hello", whole[: len(whole) // 2]):
        (tmp_path / "bad.npz").write_bytes(bad)
        with pytest.raises(DataError, match=r"bad\.npz: cannot read it as .npz \("):
            load_npz(str(tmp_path / "bad.npz"))
    np.save(tmp_path / "bad.npy", X)
    with pytest.raises(DataError, match=r"it is one array without a name, \.npy, uint8 \(6, 4, 5, 3\): put images and"):
        load_npz(str(tmp_path / "bad.npy"))
    np.savez_compressed(tmp_path / "c.npz", x=X, y=Y)
    spoilt = bytearray((tmp_path / "c.npz").read_bytes())
    spoilt[100:120] = bytes(20)
    (tmp_path / "c.npz").write_bytes(spoilt)
    with pytest.raises(DataError, match=r"c\.npz: cannot read it"):
        load_npz(str(tmp_path / "c.npz"))


def test_other_kinds_of_file_are_said_to_be_what_they_are(tmp_path):
    for start, message in (
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file; open it with h5py"),
        (b"\x80\x04", "a Python pickle; it is"),
    ):
        (tmp_path / "x").write_bytes(start + bytes(600))
        with pytest.raises(DataError, match=message):
            load_npz(str(tmp_path / "x"))
    with pytest.raises(DataError, match=r"this is a folder and no \.npz file; .* write folder:"):
        load_npz(str(tmp_path))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a/1.jpg", b"no array")
    with pytest.raises(DataError, match="an ordinary zip archive: unpack it, then folder:PATH"):
        load_npz(str(tmp_path / "photos.zip"))


def test_medmnists_names_are_ours(tmp_path):
    dataset = load_npz(
        save(tmp_path, train_images=X, train_labels=Y[:, None], val_images=X[:3], val_labels=Y[:3, None])
    )
    assert {split: len(records) for split, records in dataset.splits.items()} == {"train": 6, "val": 3}
    assert dataset.splits["train"].labels.tolist() == Y.tolist()
    rows = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]] * 2)
    several = save(tmp_path, train_images=X, train_labels=rows, test_images=X, test_labels=rows)
    assert load_npz(several).kind == "multi-label"


def test_volumes_in_medmnist_names(shared_data):
    path = str(shared_data / "adrenalmnist3d-train-val.npz")
    assert load_npz(path).splits["train"].spec["image"].shape == (28, 28, 28, 1)


def test_a_file_of_test_examples_is_evaluated_and_not_trained_on(tmp_path):
    cubes = np.zeros((6, 8, 8, 8), np.uint8)
    path = save(tmp_path, test_images=cubes, test_labels=Y[:6, None])
    (test,) = load_npz(path, least_classes=1).splits.items()
    assert (test[0], test[1].spec["image"].shape, test[1].spec["image"].meaning) == ("all", (8, 8, 8, 1), "volume")
    with pytest.raises(DataError, match="no array 'x_train'"):
        load_npz(path)


def test_lossless_cifar(shared_data):
    dataset = load_npz(str(shared_data / "cifar10-test-lossless-1017.npz"))
    labels = dataset.splits["all"].labels
    assert labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(labels).tolist() == [105, 93, 100, 104, 92, 87, 114, 102, 110, 110]
