from __future__ import annotations

import numpy as np
import pytest

from resnet_jax.data.example import Example, Spec, spec_of
from resnet_jax.data.records import ArrayRecords, Dataset, Subset, gather, in_memory
from resnet_jax.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 3, 3), np.uint8)


class Unpacked:
    """Records that are not in memory."""

    labels = np.arange(6, dtype=np.int32)

    def __len__(self) -> int:
        return 6

    @property
    def spec(self) -> Spec:
        return spec_of(self[0])

    def __getitem__(self, index: int, /) -> Example:
        return {"image": IMAGES[index]}

    def describe(self, index: int) -> str:
        return f"file {index}"


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_array_records_keep_pixels_and_make_labels_int32(dtype):
    records = ArrayRecords(IMAGES, np.arange(6).astype(dtype), name="x")
    assert len(records) == 6
    assert records.labels.dtype == np.int32
    assert np.shares_memory(records.images, IMAGES)
    np.testing.assert_array_equal(records[2]["image"], IMAGES[2])
    assert records.describe(2) == "index 2 of x"


def test_array_records_take_grey_without_channel_and_float_labels_for_regression():
    records = ArrayRecords(IMAGES[..., 0], np.linspace(0, 1, 12).reshape(6, 2))
    assert records.images.shape == (6, 4, 3, 1)
    assert records.labels.dtype == np.float32
    assert records.labels.shape == (6, 2)


def test_array_records_name_the_origin_of_their_pixels():
    assert ArrayRecords(IMAGES, np.arange(6), origin=Unpacked()).describe(3) == "file 3"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[0, 0], np.arange(3), r"\(3, 3\); need \(N, H, W\)"),
        (
            np.zeros((6, 8, 8, 2), np.uint8),
            np.arange(6),
            r"\(N, H, W, 3\); use x\[\.\.\., :1\], which drops the second channel",
        ),
        (IMAGES.transpose(0, 3, 1, 2)[..., :2], np.arange(6), r"\(N, C, H, W\): use x\.transpose\(0, 2, 3, 1\)"),
        (np.zeros((6, 8, 8, 4), np.uint8), np.arange(6), r"use x\[\.\.\., :3\], which drops the fourth channel"),
        (np.zeros((8, 8, 3, 6), np.uint8), np.arange(6), r"looks like \(H, W, C, N\): use x\.transpose\(3, 0, 1, 2\)"),
        (IMAGES.reshape(6, 36), np.arange(6), r"rows of pixels: use x\.reshape\(-1, 6, 6\)"),
        (np.zeros((6, 3072), np.uint8), np.arange(6), r"x\.reshape\(-1, 32, 32, 3\) or, channels first"),
        (np.zeros((6, 7, 7, 7), np.uint8), np.arange(6), r"grey volumes \(N, D, H, W\) or .*, x\[\.\.\., None\]"),
        (np.zeros((6, 3, 20, 20, 20), np.uint8), np.arange(6), r"\(N, C, D, H, W\): use x\.transpose\(0, 2, 3, 4, 1\)"),
        (np.zeros((6, 12, 1000), np.float32), np.arange(6), r"channels last: x\.transpose\(0, 2, 1\)"),
        (np.zeros((6, 784), np.float32), np.arange(6), r"x\.reshape\(-1, 28, 28\); signals .* x\[\.\.\., None\]"),
        (np.zeros((6, 9, 8, 20), np.float32), np.arange(6), r"images of 20 bands, say meaning='image'"),
        (np.zeros((6,), np.float32), np.arange(6), "need signals"),
        (IMAGES.astype(np.int64) << 40, np.arange(6), "int32 does not hold: scale them"),
        (IMAGES.astype(bool), np.arange(6), r"use x\.astype\(np\.uint8\) \* 255"),
        (IMAGES.view(np.int8), np.arange(6), r"x\.view\(np\.uint8\) gets them back"),
        (
            np.where(np.arange(216).reshape(6, 4, 3, 3) % 40 == 7, np.nan, 0.5),
            np.arange(6),
            r"values are NaN or infinite, the first at \(",
        ),
        (np.array([IMAGES[0], IMAGES[1, 1:]], dtype=object), np.arange(2), "Python objects of different shapes"),
        (
            IMAGES.transpose(0, 3, 1, 2)[..., :2] / 255,
            np.arange(6),
            r"two ways; this looks like \(N, C, H, W\)",
        ),
        (IMAGES[:0], np.arange(0), "nothing in it"),
        (IMAGES[:, :0], np.arange(6), "nothing in it"),
        (IMAGES, np.arange(5), r"labels are int64 \(5,\) for 6 images"),
        (IMAGES, np.array(1), "for 6 images"),
        (IMAGES, np.arange(6).reshape(6, 1), r"need integers of shape \(N,\); use y.ravel\(\)"),
        (IMAGES, np.eye(6, dtype=int), r"these are one-hot rows: use y\.argmax\(axis=1\)"),
        (IMAGES, np.array(list("abcdef")), r"class_names, y = np\.unique\(y, return_inverse=True\)"),
        (IMAGES, np.array([b"a", b"b"] * 3), r"np\.unique\(y\.astype\(str\), return_inverse=True\)"),
        (IMAGES, np.array([True] * 6), r"labels are bool .* use y\.astype\(np\.int64\)"),
        (IMAGES, np.array([0, np.nan, 1, 0, 1, np.nan]), "2 of them are NaN or infinite, the first at index 1"),
        (IMAGES, np.arange(6) + 2**31 - 5, r"2147483643..2147483648; class indices must fit int32"),
        (IMAGES, np.arange(6) - 2**31 - 1, "must fit int32"),
    ],
)
def test_array_records_say_what_was_found_and_what_is_needed(images, labels, message):
    with pytest.raises(DataError, match=message):
        ArrayRecords(images, labels, name="x")


@pytest.mark.parametrize("base", [ArrayRecords(IMAGES, np.arange(6)), Unpacked()])
def test_subsets_nest(base):
    outer = Subset(base, np.array([5, 3, 1]))
    inner = Subset(outer, np.array([2, 0]))
    assert inner.labels.tolist() == [1, 5]
    assert inner.describe(1) == base.describe(5)
    np.testing.assert_array_equal(inner[0]["image"], IMAGES[1])
    assert in_memory(inner) == isinstance(base, ArrayRecords)
    together = gather(inner, np.array([1, 1, 0]))
    if together is not None:
        assert in_memory(inner)
        np.testing.assert_array_equal(together["image"], IMAGES[[5, 5, 1]])
    else:
        assert not in_memory(inner)


def dataset(labels, class_names=("a", "b"), split="all"):
    return Dataset("mine", {split: ArrayRecords(IMAGES, np.array(labels), name="x")}, class_names)


def test_dataset_counts_classes_that_have_no_example():
    assert dataset([0, 0, 0, 2, 2, 2], ("a", "b", "c")).num_classes == 3


@pytest.mark.parametrize("bad", [2, -1])
def test_dataset_names_the_first_label_out_of_range(bad):
    where = rf"mine, split 'all': label {bad} at index 3 \(index 3 of x\)"
    with pytest.raises(DataError, match=rf"{where} is outside 0\.\.1, .* 2 such labels in all"):
        dataset([0, 1, 1, bad, 0, bad])


def test_dataset_refuses_float_labels():
    with pytest.raises(DataError, match=r"float32 .*, but classes are integers 0..1; values to predict are"):
        dataset([0.0, 1.0, 0.5, 0.0, 0.0, 1.0])
    with pytest.raises(DataError, match=r"classes are integers 0..1; use y\.astype\(np\.int64\)"):
        dataset([0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    with pytest.raises(DataError, match=r"one-hot rows: use y\.argmax\(axis=1\)"):
        dataset(np.eye(2)[[0, 1, 0, 1, 0, 1]])


def test_dataset_refuses_labels_that_count_from_one_and_names_given_twice():
    with pytest.raises(DataError, match="2 such labels in all; classes are counted from 0: use y - 1"):
        dataset([1, 2, 1, 2, 1, 1])
    with pytest.raises(DataError, match="1 class names are given twice, 'a' for one"):
        dataset([0, 1, 1, 0, 0, 1], ("a", "a"))


def test_dataset_refuses_one_class():
    with pytest.raises(DataError, match="the classes are a; need at least two"):
        dataset([0] * 6, ("a",))
    with pytest.raises(DataError, match="the classes are none"):
        dataset([0] * 6, ())


@pytest.mark.parametrize("names", [(), ("train",), ("test",), ("all", "train"), ("train", "extra"), ("test", "val")])
def test_dataset_refuses_other_splits(names):
    records = ArrayRecords(IMAGES, np.arange(6))
    with pytest.raises(DataError, match=f"the splits are {', '.join(names) or 'none'}; need 'all', or 'train' with"):
        Dataset("mine", dict.fromkeys(names, records), tuple("abcdef"))


@pytest.mark.parametrize("names", [("all",), ("train", "test"), ("train", "val"), ("train", "val", "test")])
def test_dataset_takes_these_splits(names):
    records = ArrayRecords(IMAGES, np.arange(6))
    assert tuple(Dataset("mine", dict.fromkeys(names, records), tuple("abcdef")).splits) == names
