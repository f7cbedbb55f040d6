from __future__ import annotations

import numpy as np
import pytest

from resnet_jax.data.records import ArrayRecords, Dataset, Subset, gather, in_memory
from resnet_jax.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 3, 3), np.uint8)


class Unpacked:
    """Records that are not in memory."""

    labels = np.arange(6, dtype=np.int32)

    def __len__(self) -> int:
        return 6

    def image(self, index: int) -> np.ndarray:
        return IMAGES[index]

    def describe(self, index: int) -> str:
        return f"file {index}"


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_array_records_keep_pixels_and_make_labels_int32(dtype):
    records = ArrayRecords(IMAGES, np.arange(6).astype(dtype), name="x")
    assert len(records) == 6
    assert records.labels.dtype == np.int32
    assert np.shares_memory(records.images, IMAGES)
    np.testing.assert_array_equal(records.image(2), IMAGES[2])
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
        (IMAGES / 255, np.arange(6), r"x: images are float64 \(6, 4, 3, 3\); need uint8"),
        (IMAGES[0, 0], np.arange(3), r"\(3, 3\); need \(N, H, W\)"),
        (IMAGES[..., :2], np.arange(6), r"need \(N, H, W\), \(N, H, W, 1\) or \(N, H, W, 3\)$"),
        (
            IMAGES.transpose(0, 3, 1, 2)[..., :2],
            np.arange(6),
            r"\(N, C, H, W\): use images.transpose\(0, 2, 3, 1\)",
        ),
        (IMAGES[:0], np.arange(0), "nothing in it"),
        (IMAGES[:, :0], np.arange(6), "nothing in it"),
        (IMAGES, np.arange(5), r"labels are int64 \(5,\) for 6 images"),
        (IMAGES, np.array(1), "for 6 images"),
        (IMAGES, np.arange(6).reshape(6, 1), r"need integers of shape \(N,\); use labels.ravel\(\)"),
        (IMAGES, np.eye(6, dtype=int), r"int64 \(6, 6\); need integers of shape \(N,\)$"),
        (IMAGES, np.array(list("abcdef")), "need integers"),
        (IMAGES, np.array([True] * 6), "labels are bool"),
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
    np.testing.assert_array_equal(inner.image(0), IMAGES[1])
    assert in_memory(inner) == isinstance(base, ArrayRecords)
    together = gather(inner, np.array([1, 1, 0]))
    if in_memory(inner):
        np.testing.assert_array_equal(together, IMAGES[[5, 5, 1]])
    else:
        assert together is None


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
    with pytest.raises(DataError, match=r"float32, but classes are integers 0..1; for regression use the Python API"):
        dataset([0.0, 1.0, 0.5, 0.0, 0.0, 1.0])


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
