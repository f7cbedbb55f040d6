"""Which images a network is shown, whether they are its own, and what their labels are to it; nothing is compiled."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest

from resnet_jax.data.records import ArrayRecords
from resnet_jax.errors import DataError, RunError, UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.build import build_model
from resnet_jax.runs.chosen import choose_images, describe_moved, own_splits
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.data import load_images
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.sizes import bring_to_size, describe_sizes
from resnet_jax.runs.trained import TrainedRun, with_class_names, with_geometry, with_moved_data, with_normalization
from tests.tools import write_by_hand

NAMES = ("cat", "dog", "owl")


def write(path, count=60, names=NAMES, size=8, seed=0, **more):
    """Write an npz: image i is i everywhere, so that it can be told; labels in turn. Return its source."""
    labels = np.arange(count) % len(names)
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, size, size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{"x": images, "y": labels, "class_names": np.array(names), **more})
    return f"npz:{path}"


def folder(path, *names):
    """Write two red images a class. Return their source."""
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 2] = 90  # OpenCV's order
    for name in names:
        (path / name).mkdir(parents=True)
        for index in range(2):
            cv2.imwrite(str(path / name / f"{index}.png"), red)
    return f"folder:{path}"


def trained_on(source, path, **data) -> TrainedRun:
    """Return a run on that source, without weights."""
    config = RunConfig(model=ModelSpec("resnet20_cifar"), data=DataConfig(source, **data))
    card = load_images(config).card
    return TrainedRun(config, card, build_model(config, card), {}, 0, path)


def imported(names, *, shape=(8, 8, 3), outputs=None, **data) -> TrainedRun:
    """Return a network without images of its own."""
    outputs = len(names) if outputs is None else outputs
    config = RunConfig(model=ModelSpec("resnet20_cifar", num_classes=outputs), data=DataConfig(**data))
    card = DatasetInfo(tuple(names), shape, (0.5,) * shape[-1], (0.25,) * shape[-1], {})
    return TrainedRun(config, card, build_model(config, card), {}, 0, "my-net")


def which(records):
    return [int(records[index]["image"][0, 0, 0]) for index in range(len(records))]


def test_its_own_split_is_its_own_wherever_it_lies(tmp_path):
    old, new = write(tmp_path / "old.npz"), write(tmp_path / "elsewhere" / "new.npz")
    run = trained_on(old, tmp_path / "run")
    expected = choose_images(run, "test")
    assert (len(expected.records), expected.own, expected.said) == (12, True, ())
    (tmp_path / "old.npz").unlink()
    for moved in (choose_images(with_moved_data(run, new), "test"), choose_images(run, "test", new)):
        assert moved.own
        assert which(moved.records) == which(expected.records)
        assert moved.what == "the test split"
        assert new in moved.said[0]
    assert len(choose_images(run, "train", new).records) == 42
    everything = choose_images(run, "all", new)
    assert (len(everything.records), everything.own, everything.what) == (60, False, f"all 60 images of {new}")
    with pytest.raises(UsageError, match=r"name it with data\.source"):
        choose_images(run, "all")
    with pytest.raises(DataError, match=r"data\.moved_to"):
        choose_images(run, "test")
    assert run.config.data.moved_to is None


@pytest.mark.parametrize(
    "changed",
    [
        {"count": 63},
        {"names": ("cat", "dog", "pig")},
        {"y": np.roll(np.arange(60) % 3, 1)},  # as many of each class, in another order
    ],
)
def test_what_is_not_the_same_data_is_refused_where_it_is_said_to_be_moved(tmp_path, changed):
    run = trained_on(write(tmp_path / "old.npz"), tmp_path / "run")
    other = write(tmp_path / "other.npz", **changed)
    with pytest.raises(RunError, match=r"is not what .* was when"):
        choose_images(with_moved_data(run, other), "test")
    if "names" in changed:
        with pytest.raises(UsageError, match=r"no class 'pig'"):
            choose_images(run, "test", other)
        return
    for split in ("train", "val", "test"):
        chosen = choose_images(run, split, other)
        count = changed.get("count", 60)
        assert (chosen.split, chosen.own, chosen.what) == ("all", False, f"all {count} images of {other}")


def test_other_images_of_as_many_classes_are_not_taken_for_the_run_s_own(tmp_path):
    """Names, counts and order are the same; only the pixels tell."""
    run = trained_on(write(tmp_path / "old.npz"), tmp_path / "run")
    other = write(tmp_path / "other.npz", x=np.full((60, 8, 8, 3), 50, np.uint8))
    chosen = choose_images(run, "test", other)
    assert (chosen.own, len(chosen.records)) == (False, 60)
    given = trained_on(write(tmp_path / "old.npz"), tmp_path / "run", mean=(0.5,) * 3, std=(0.2,) * 3)
    assert not choose_images(given, "test", other).own
    assert choose_images(given, "test", write(tmp_path / "copy.npz")).own
    (tmp_path / "old.npz").unlink()  # the labels alone decide, and it is said
    assert "its own division is used" in choose_images(given, "test", other).said[0]


def test_a_source_that_may_hold_images_trained_on_is_said_to(tmp_path):
    run = trained_on(write(tmp_path / "old.npz"), tmp_path / "run")
    fewer = write(tmp_path / "fewer.npz", count=57)
    assert not any("trained on" in said for said in choose_images(run, "test", fewer).said)
    (tmp_path / "old.npz").unlink()
    assert "where nothing is any more: if these are among them" in choose_images(run, "test", fewer).said[0]
    source = write(tmp_path / "old.npz", count=57)
    assert "which is not what it was" in choose_images(run, "test", source).said[0]


def test_moved_data_of_other_pixels_is_said_to_be(tmp_path):
    run = trained_on(write(tmp_path / "old.npz"), tmp_path / "run")
    same, other = write(tmp_path / "same.npz"), write(tmp_path / "other.npz", x=np.full((60, 8, 8, 3), 50, np.uint8))
    assert describe_moved(with_moved_data(run, same)) == ()
    assert "another mean and deviation than those" in describe_moved(with_moved_data(run, other))[0]


def test_one_class_is_evaluated_as_a_part_of_the_network_s(tmp_path):
    run = imported(NAMES)
    chosen = choose_images(run, "test", write(tmp_path / "one.npz", count=4, names=("owl",)))
    assert (chosen.classes, chosen.records.labels.tolist()) == (1, [2] * 4)
    assert "1 of the network's 3 classes: owl" in chosen.said[0]
    assert choose_images(run, "test", folder(tmp_path / "dogs", "dog")).records.labels.tolist() == [1, 1]


def test_other_channels_than_the_network_s_are_said(tmp_path):
    colours = np.zeros((6, 8, 8, 3), np.uint8)
    colours[..., 0] = 90
    source = write(tmp_path / "rgb.npz", count=6, x=colours)
    assert choose_images(imported(NAMES), "test", source).said == ()
    grey = imported(NAMES, shape=(8, 8, 1))
    assert choose_images(grey, "test", source).said == ("x is RGB, converted to gray: the network takes 1 channel",)
    said = choose_images(grey, "test", folder(tmp_path / "colours", *NAMES)).said
    assert said == ("all 6 images are in colours, converted to gray: the network takes 1 channel",)
    source = write(tmp_path / "grey.npz", count=6, x=colours[..., :1])
    assert "all 6 images are grey, repeated in the 3 channels" in choose_images(imported(NAMES), "test", source).said[0]


def test_a_data_json_without_the_digest_of_its_labels_still_loads(tmp_path):
    source = write(tmp_path / "old.npz")
    run = trained_on(source, tmp_path / "run")
    directory = RunDirectory.open(tmp_path / "run", run.config)
    directory.write_data(run.card)
    stored = json.loads(directory.data.read_text())
    assert len(stored.pop("labels")) == 16
    write_by_hand(directory.data, json.dumps(stored))
    old = dataclasses.replace(run, card=directory.read_data())
    assert old.card.labels == ""
    assert choose_images(old, "test").own
    assert choose_images(old, "test", write(tmp_path / "new.npz")).own
    directory.write_data(run.card)  # a resumed run goes on, and knows more from then on
    assert directory.read_data() == run.card
    with pytest.raises(RunError, match=r"data is not what it was"):
        directory.write_data(dataclasses.replace(run.card, labels="0" * 16))


def test_another_source_gives_its_own_split_and_says_what_it_is(tmp_path):
    run = imported(NAMES)
    parts = {f"{key}_{split}": np.zeros((n, 8, 8, 3), np.uint8) if key == "x" else np.arange(n) % 3
             for key in "xy" for split, n in (("train", 9), ("test", 6))}  # fmt: skip
    np.savez(tmp_path / "two.npz", **parts, class_names=np.array(NAMES))
    source = f"npz:{tmp_path / 'two.npz'}"
    assert choose_images(run, "test", source).what == f"all 6 test images of {source}"
    assert choose_images(run, "train", source).what == f"all 9 train images of {source}"
    with pytest.raises(UsageError, match=r"has no val split: it has train, test"):
        choose_images(run, "val", source)


def test_folders_of_train_and_val_have_their_val_tested(tmp_path):
    import cv2

    for split, count in (("train", 8), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "old" / split / name).mkdir(parents=True)
            for index in range(count):
                cv2.imwrite(str(tmp_path / "old" / split / name / f"{index}.png"), np.full((8, 8, 3), index, np.uint8))
    source = f"folder:{tmp_path / 'old'}"
    chosen = choose_images(imported(("cat", "dog")), "test", source)
    assert (chosen.split, len(chosen.records)) == ("val", 4)
    assert "no test split: its val split is used" in chosen.said[0]
    run = trained_on(source, tmp_path / "run", val_fraction=0.25)
    train = choose_images(run, "train")
    (tmp_path / "old").rename(tmp_path / "new")
    moved = choose_images(run, "train", f"folder:{tmp_path / 'new'}")  # not all of train: some were held out
    assert (moved.own, len(moved.records), len(train.records)) == (True, 12, 12)
    assert len(choose_images(run, "val", f"folder:{tmp_path / 'new'}").records) == 4
    assert len(choose_images(run, "test", f"folder:{tmp_path / 'new'}").records) == 4


def test_labels_are_those_of_the_network(tmp_path):
    source = write(tmp_path / "a.npz", names=("owl", "cat", "dog"))
    run = trained_on(write(tmp_path / "own.npz", 63), tmp_path / "run")
    chosen = choose_images(run, "test", source)
    assert chosen.records.labels[:3].tolist() == [2, 0, 1]
    assert which(chosen.records)[:3] == [0, 1, 2], "the images keep their order"
    unnamed = imported(("0", "1", "2"))
    with pytest.raises(UsageError, match="class_names="):
        choose_images(unnamed, "test", source)
    given = choose_images(with_class_names(unnamed, NAMES), "test", source)
    np.testing.assert_array_equal(given.records.labels, chosen.records.labels)


def test_an_imported_network_has_no_split_of_its_own():
    with pytest.raises(UsageError, match=r"was imported: it has no images of its own.*data\.source"):
        choose_images(imported(NAMES), "test")
    with pytest.raises(UsageError, match="no training images to look with"):
        own_splits(imported(NAMES), "look with")


def test_images_come_in_the_size_of_the_network_and_it_is_said(tmp_path):
    run = imported(NAMES)
    for size, said in ((8, ()), (16, ("images 16x16 brought to 8x8",)), (4, ("images 4x4 brought to 8x8",))):
        source = write(tmp_path / f"{size}.npz", size=size)
        records, sizes = bring_to_size(run, choose_images(run, "test", source).records)
        assert records[5]["image"].shape == (8, 8, 3)
        assert records.labels[:4].tolist() == [0, 1, 2, 0]
        assert describe_sizes(run, sizes.seen) == said
    larger = with_geometry(run, 16, None)
    records, sizes = bring_to_size(larger, choose_images(larger, "test", source).records)
    assert records[0]["image"].shape == (16, 16, 3)
    assert describe_sizes(larger, sizes.seen) == ("images 4x4 brought to 16x16",)
    with pytest.raises(UsageError, match=r"1 pixel or more"):
        with_geometry(run, 0, None)
    with pytest.raises(UsageError, match=r"data.crop must be none or random_resized"):
        with_geometry(run, None, "centre")


def test_the_margin_of_random_resized_crops_is_the_run_s_own():
    images = np.random.default_rng(0).integers(0, 255, (2, 40, 30, 3)).astype(np.uint8)
    records = ArrayRecords(images, np.array([0, 1]))
    whole, margin = imported(NAMES, shape=(28, 28, 3)), imported(NAMES, shape=(28, 28, 3), image_size=28,
                                                                augment=("random_resized_crop",))  # fmt: skip
    for run, shorter in ((whole, 28), (margin, 32), (with_geometry(whole, None, "random_resized"), 32)):
        brought, sizes = bring_to_size(run, records)
        np.testing.assert_array_equal(brought[1]["image"], run.geometry.eval_image(images[1]))
        assert run.geometry.shorter_side == shorter
        assert describe_sizes(run, sizes.seen)[0].startswith("images 40x30 brought to 28x28 (shorter side")


def test_sizes_of_files_are_those_of_all_of_them(tmp_path):
    import cv2

    for index, (height, width) in enumerate(((8, 8), (10, 20), (9, 9), (30, 30))):
        (tmp_path / NAMES[index % 2]).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / NAMES[index % 2] / f"{index}.png"), np.zeros((height, width, 3), np.uint8))
    run = imported(NAMES)
    _, sizes = bring_to_size(run, choose_images(run, "test", f"folder:{tmp_path}").records)
    said = "images of 3 sizes, 9x9 to 30x30, brought to 8x8 (shorter side resized, centre cut out)"
    assert describe_sizes(run, sizes.seen) == (said,)


def test_a_network_that_is_not_square_takes_its_own_size_only(tmp_path):
    run = imported(NAMES, shape=(8, 12, 3))
    right = ArrayRecords(np.zeros((2, 8, 12, 3), np.uint8), np.array([0, 1]))
    assert bring_to_size(run, right)[0][0]["image"].shape == (8, 12, 3)
    with pytest.raises(UsageError, match=r"takes images of 8x12 pixels.*has 16x16: no rule"):
        bring_to_size(run, ArrayRecords(np.zeros((2, 16, 16, 3), np.uint8), np.array([0, 1]), "wrong"))
    with pytest.raises(UsageError, match=r"takes 3 channels.* has 1"):
        bring_to_size(imported(NAMES), ArrayRecords(np.zeros((2, 8, 8), np.uint8), np.array([0, 1])))


def test_one_output_or_none(tmp_path):
    source = write(tmp_path / "two.npz", names=("no", "yes"))
    for outputs, message in ((0, "has no classifier.*init_head new"), (1, "one output, a yes or no.*class_names=")):
        with pytest.raises(UsageError, match=message):
            choose_images(imported((), outputs=outputs), "test", source)
    chosen = choose_images(with_class_names(imported(("0",)), ("no", "yes")), "test", source)
    assert chosen.records.labels[:3].tolist() == [0, 1, 0]


def test_normalization_is_checked_where_it_is_given():
    run = imported(NAMES)
    with pytest.raises(UsageError, match=r"data.mean 0.485 0.456 0.406 and data.std 0.229"):
        with_normalization(run, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    with pytest.raises(UsageError, match=r"in \[0, 1\]"):
        with_normalization(run, (float("nan"), 0.5, 0.5), (0.2, 0.2, 0.2))
    with pytest.raises(UsageError, match=r"need 3 means"):
        with_normalization(run, (0.5, 0.5, 0.5), ())
    assert with_normalization(run, (0.1, 0.2, 0.3), (0.2, 0.2, 0.2)).card.mean == (0.1, 0.2, 0.3)


def cameras(path, count=4):
    """Write images with orientation 6, 7x5 as they are stored, in two classes. Return their source."""
    from tests.data.test_orientation import png

    for name in NAMES[:2]:
        (path / name).mkdir(parents=True)
        for index in range(count):
            (path / name / f"{index}.png").write_bytes(png(6))
    return f"folder:{path}"


@pytest.mark.parametrize(("orientation", "shape"), [("stored", (7, 5, 3)), ("exif", (5, 7, 3))])
def test_other_images_are_turned_as_the_own_were(tmp_path, orientation, shape):
    from resnet_jax.runs.features import find_images

    run = imported(NAMES[:2], orientation=orientation)
    source = cameras(tmp_path / "set")
    assert choose_images(run, "all", source).records[0]["image"].shape == shape
    described = find_images(run, source)
    assert described is not None
    assert described.splits["all"][0]["image"].shape == shape
    table = tmp_path / "table.csv"
    table.write_text("path,label\nset/cat/0.png,cat\nset/dog/0.png,dog\n")
    assert choose_images(run, "all", f"manifest:{table}").records[0]["image"].shape == shape
    assert choose_images(run, "all", write(tmp_path / "other.npz", names=NAMES[:2])).records[0]["image"].shape[-1] == 3


def test_classes_in_names_are_found_at_another_place_too(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for index in range(20):
            image = np.full((8, 8, 3), index * 9, np.uint8)
            cv2.imwrite(str(tmp_path / place / f"{NAMES[index % 2]}_{index}.png"), image)
    listed = tmp_path / "classes.txt"
    listed.write_text("dog\ncat\n")
    run = trained_on(f"folder:{tmp_path}/here", tmp_path / "run", class_pattern="^([a-z]+)_", class_list=str(listed))
    assert run.card.class_names == ("dog", "cat")
    chosen = choose_images(run, "test", f"folder:{tmp_path}/there")
    assert chosen.own
    other = choose_images(run, "all", f"folder:{tmp_path}/there")
    assert sorted(other.records.labels.tolist()) == [0] * 10 + [1] * 10
