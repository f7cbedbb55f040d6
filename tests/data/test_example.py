"""Examples of every dtype and rank, from arrays to batches."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.augment import normalize
from resnet_jax.data.example import Example, Field, fields_of, spec_of
from resnet_jax.data.in_memory import materialize
from resnet_jax.data.npz import load_arrays, load_npz
from resnet_jax.data.pipeline import EvalBatches, TrainBatches
from resnet_jax.data.records import ArrayRecords, Dataset, Source, Subset
from resnet_jax.data.split import resolve_splits
from resnet_jax.data.stats import channel_stats
from resnet_jax.data.transform import Geometry
from resnet_jax.data.view import View
from resnet_jax.errors import DataError

RNG = np.random.default_rng(0)
Y = np.arange(6) % 2


@pytest.mark.parametrize(
    ("x", "shape", "dtype", "meaning"),
    [
        (RNG.normal(size=(6, 50)), (50, 1), "float32", "signal"),
        (RNG.normal(size=(6, 50, 12)).astype(np.float16), (50, 12), "float16", "signal"),
        (RNG.integers(0, 65536, (6, 9, 8), np.uint16), (9, 8, 1), "uint16", "image"),
        (RNG.integers(0, 4096, (6, 9, 8, 3), np.uint16), (9, 8, 3), "uint16", "image"),
        (RNG.normal(size=(6, 9, 8, 2)), (9, 8, 2), "float32", "image"),
        (RNG.integers(0, 256, (6, 20, 24, 13), np.uint8), (20, 24, 13), "uint8", "image"),
        (RNG.integers(-9, 9, (6, 9, 8, 1)), (9, 8, 1), "int32", "image"),
        (RNG.integers(0, 256, (6, 5, 6, 7, 1), np.uint8), (5, 6, 7, 1), "uint8", "volume"),
        (RNG.normal(size=(6, 5, 6, 7, 2)), (5, 6, 7, 2), "float32", "volume"),
    ],
)
def test_every_dtype_and_rank_goes_from_arrays_to_batches_and_is_normalized(x, shape, dtype, meaning):
    records = load_arrays((x, Y)).splits["all"]
    assert records.spec["image"] == Field(shape, dtype, meaning)
    batch = TrainBatches(records, 4, seed=0).batch(0)
    assert batch["image"].dtype == dtype
    np.testing.assert_array_equal(batch["image"], x.reshape(6, *shape).astype(dtype)[batch["index"]])
    mean, std = channel_stats(records)
    values = x.reshape(-1, shape[-1]).astype(dtype).astype(np.float64) / (255 if dtype == "uint8" else 1)
    np.testing.assert_allclose((mean, std), (values.mean(0), values.std(0)), rtol=1e-9, atol=1e-9)
    ready = normalize(jnp.asarray(records[0]["image"][None]), mean, std)
    np.testing.assert_allclose(ready[0].reshape(-1, shape[-1]), (values[: ready[0].size // shape[-1]] - mean) / std,
                               rtol=1e-4, atol=1e-4)  # fmt: skip
    last = list(EvalBatches(records, 4))[-1]
    assert last["image"].shape == (4, *shape)
    assert not last["image"][2:].any()


def test_what_the_shape_leaves_open_the_meaning_decides():
    with pytest.raises(DataError, match="rows of pixels"):
        load_arrays((RNG.normal(size=(6, 64)), Y))
    assert load_arrays({"x": RNG.normal(size=(6, 64)), "y": Y, "meaning": "signal"}).splits["all"][0][
        "image"
    ].shape == (
        64,
        1,
    )
    four = RNG.integers(0, 256, (6, 8, 8, 4), np.uint8)
    with pytest.raises(DataError, match="alpha"):
        load_arrays((four, Y))
    assert load_arrays({"x": four, "y": Y, "meaning": "image"}).splits["all"][0]["image"].shape == (8, 8, 4)
    cube = RNG.integers(0, 256, (6, 8, 8, 8), np.uint8)
    assert load_arrays({"x": cube, "y": Y, "meaning": "volume"}).splits["all"][0]["image"].shape == (8, 8, 8, 1)
    with pytest.raises(DataError, match=r"volumes are \(N, D, H, W\) or"):
        load_arrays({"x": cube[:, 0], "y": Y, "meaning": "volume"})
    with pytest.raises(DataError, match=r"need \(x, y\), or a dict"):
        load_arrays([cube, Y])  # type: ignore[arg-type]


def several(count: int = 6) -> dict[str, np.ndarray]:
    """Images whose red channel is also their mask, boxes, and a second input."""
    x = RNG.integers(0, 256, (count, 8, 6, 3), np.uint8)
    return {
        "x": x,
        "y": np.arange(count) % 2,
        "segmentation_mask": x[..., 0],
        "boxes": RNG.uniform(0, 6, (count, 2, 4)),
        "age": np.arange(count),
    }


def test_batches_carry_every_field_of_the_examples(tmp_path):
    np.savez(tmp_path / "a.npz", **several())
    records = load_npz(str(tmp_path / "a.npz")).splits["all"]
    assert {name: field.meaning for name, field in records.spec.items()} == {
        "image": "image", "segmentation_mask": "mask", "boxes": "boxes", "age": "array", "label": "label"
    }  # fmt: skip
    for source in (records, Subset(records, np.array([5, 1, 0, 3]))):
        batches = TrainBatches(source, 3, seed=1)
        batch, resident = batches.batch(4), batches.resident()
        assert list(batch) == ["image", "segmentation_mask", "boxes", "age", "label", "mask", "index", "epoch"]
        assert sum(values.nbytes for values in resident.values()) == batches.stored_bytes
        for name, values in resident.items():
            np.testing.assert_array_equal(values[batch["index"]], batch[name])
        last = list(EvalBatches(source, 4 if len(source) == 6 else 3))[-1]
        assert last["boxes"].shape[1:] == (2, 4)
        assert not last["boxes"][~last["mask"]].any()


def test_fields_of_splits_need_the_splits_ending():
    parts = {f"{name}_{split}": value for split in ("train", "test") for name, value in several().items()}
    data = load_arrays({**parts, "weight_train": np.ones(6)})
    assert list(data.splits["test"].spec) == ["image", "segmentation_mask", "boxes", "age", "label"]
    assert data.notes[-1] == "arrays left out: weight_train float64 (6,)"


class Lazy:
    """The examples one by one, not in memory."""

    def __init__(self, records: Source):
        self.records, self.labels, self.spec = records, records.labels, records.spec

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int, /) -> Example:
        return self.records[index]

    def describe(self, index: int) -> str:
        return f"example {index}"


@pytest.mark.parametrize("geometry", [Geometry(), Geometry(5), Geometry(4, "random_resized")])
def test_read_one_by_one_they_are_the_same_and_masks_are_moved_with_the_image(geometry):
    records = load_arrays(several()).splits["all"]
    lazy = Lazy(records)
    stored, seen = (View(source, geometry, training=True, seed=3) for source in (records, lazy))
    for name, values in stored.examples(np.arange(6), epoch=2).items():
        np.testing.assert_array_equal(values, seen.examples(np.arange(6), epoch=2)[name])
    held = materialize(lazy, geometry, training=False)
    assert {name: field.meaning for name, field in held.spec.items()} == {
        name: field.meaning for name, field in records.spec.items()
    }
    expected = View(records, geometry, training=False).examples(np.arange(6))
    for name, values in expected.items():
        np.testing.assert_array_equal(View(held, Geometry(), training=False).examples(np.arange(6))[name], values)


@pytest.mark.parametrize("training", [True, False])
def test_a_cut_keeps_mask_and_boxes_on_the_thing(training):
    """A bright rectangle on black, its mask and its box: after any cut and resize they still lie on it."""
    image = np.zeros((40, 50, 1), np.uint8)
    image[10:30, 15:45] = 255
    data = {"x": image[None], "y": np.zeros(1, int), "mask_of_it": image[None, ..., 0], "boxes": [[[10, 15, 30, 45.0]]]}
    records = load_arrays(data, least_classes=1).splits["all"]
    view = View(records, Geometry(32, "random_resized"), training=training, seed=1)
    for epoch in range(5):
        seen = view.example(0, epoch)
        bright = seen["image"][..., 0] > 127
        assert (bright != (seen["mask_of_it"] > 0)).mean() < 0.02
        top, left, bottom, right = seen["boxes"][0]
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        if len(rows):
            np.testing.assert_allclose((top, left), (rows[0], columns[0]), atol=1.1)
            np.testing.assert_allclose((bottom, right), (rows[-1] + 1, columns[-1] + 1), atol=1.1)


def test_examples_that_differ_are_named():
    class Ragged(Lazy):
        def __getitem__(self, index: int, /) -> Example:
            example = dict(self.records[index])
            match index:
                case 1:
                    example["boxes"] = example["boxes"][:1]
                case 2:
                    example["image"] = example["image"].astype(np.uint16)
                case 3:
                    del example["age"]
                case _:
                    pass
            return example

    view = View(Ragged(load_arrays(several()).splits["all"]), Geometry(), training=False)
    for index, message in (
        (1, r"boxes of example 1 is 1x4 but that of example 0 is 2x4; .* pad it"),
        (2, "example 2 holds uint16 but example 0 uint8"),
        (3, "example 3 has no 'age', which example 0 has"),
    ):
        with pytest.raises(DataError, match=message):
            view.example(index)


def test_names_that_batches_use_and_examples_without_an_input_are_refused():
    with pytest.raises(DataError, match="a field cannot be called 'mask'"):
        ArrayRecords(np.zeros((2, 4, 4), np.uint8), [0, 1], fields={"mask": np.zeros(2)})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="hold x and no 'image'"):
        fields_of({"x": Field((1,), "uint8")})
    with pytest.raises(DataError, match="a field is called 'index'"):
        fields_of(spec_of({"image": np.zeros((2, 2)), "index": np.zeros(2)}))


ROWS = (RNG.random((40, 3)) < 0.4).astype(np.uint8)


def test_labels_are_classes_several_labels_or_values():
    x = np.full((40, 4, 4), 9, np.uint8)
    names = np.array(["a", "b", "c"])
    several_labels = load_arrays({"x": x, "y": ROWS, "label_names": names})
    assert (several_labels.kind, several_labels.class_names) == ("multi-label", ("a", "b", "c"))
    assert several_labels.splits["all"].labels.dtype == np.float32
    assert load_arrays((x, ROWS)).kind == "multi-label"
    one = load_arrays({"x": x, "y": np.eye(3, dtype=int)[np.arange(40) % 3], "label_names": names})
    assert one.kind == "multi-label"
    values = load_arrays({"x": x, "y": np.arange(40), "target_names": np.array(["age"])})
    assert (values.kind, values.class_names, values.splits["all"].labels.dtype) == ("value", ("age",), np.float32)
    assert load_arrays((x, np.arange(40) / 7)).class_names == ("value",)
    assert load_arrays((x, np.arange(80).reshape(40, 2) / 7)).class_names == ("0", "1")
    assert load_arrays({"x": x, "y": ROWS, "label_names": np.array(["a", "b", "c"])}).notes == ()
    never = load_arrays({"x": x, "y": ROWS * [1, 1, 0], "label_names": names})
    assert resolve_splits(never).notes == ("1 of 3 labels are never given: c",)


@pytest.mark.parametrize("y", [ROWS, np.arange(40) / 7])
def test_several_labels_and_values_are_divided_at_random_and_always_the_same(y):
    data = load_arrays((np.arange(40, dtype=np.uint8)[:, None, None] * np.ones((4, 4), np.uint8), y))
    splits, again, other = (resolve_splits(data, seed=seed) for seed in (0, 0, 1))
    parts = [part for part in (splits.train, splits.val, splits.test) if part is not None]
    numbers = [[int(part[i]["image"][0, 0, 0]) for i in range(len(part))] for part in parts]
    assert sorted(number for part in numbers for number in part) == list(range(40))
    assert [len(part) for part in numbers] == [28, 4, 8]
    assert splits.test is not None
    assert again.test is not None
    assert other.test is not None
    np.testing.assert_array_equal(splits.test.labels, again.test.labels)
    assert not np.array_equal(splits.test.labels, other.test.labels)
    assert splits.kind == data.kind


def test_labels_of_another_kind_are_refused():
    records = ArrayRecords(np.zeros((6, 4, 4), np.uint8), np.arange(6))
    with pytest.raises(DataError, match="one column for each of the 2 names"):
        Dataset("mine", {"all": records}, ("a", "b"), kind="multi-label")
    with pytest.raises(DataError, match="there are no names of targets"):
        Dataset("mine", {"all": records}, (), kind="value")
