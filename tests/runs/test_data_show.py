"""A contact sheet shows what the training step sees."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from resnet_jax.data.example import Meaning
from resnet_jax.errors import UsageError
from resnet_jax.report.contact_sheet import Seen, Sheet, Shown, draw_sheet
from resnet_jax.report.example_axes import Style, as_colours, colour_of
from resnet_jax.runs.build import training_feed
from resnet_jax.runs.config import DataConfig, RunConfig, TrainConfig
from resnet_jax.runs.data import load_images
from resnet_jax.runs.data_show import Named, Which, named, sheet_of_config, sheet_of_source, unnormalized
from resnet_jax.runs.preparation import train_preprocess


def config_of(tmp_path, **data) -> RunConfig:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "set.npz",
        x=rng.integers(0, 256, (300, 8, 8, 3), np.uint8),
        y=np.arange(300) % 3,
        class_names=np.array(["ant", "bee", "cat"]),
    )
    data_config = DataConfig(source=f"npz:{tmp_path}/set.npz", **data)
    return RunConfig(data=data_config, train=TrainConfig(batch_size=32), seed=5)


def test_what_is_drawn_is_what_the_step_of_that_run_is_given(tmp_path):
    import jax

    config = config_of(tmp_path, augment=("flip", "mixup(1.0)"), balance="classes")
    sheet = sheet_of_config(Named("x", config), config, Which(count=5, epoch=1, step=1))
    images = load_images(config)
    feed = training_feed(config, images)
    batch = feed.batch(feed.steps_per_epoch + 1)
    model = dataclasses.make_dataclass("Model", ["config"])(
        dataclasses.make_dataclass("Config", ["dtype", "num_classes"])("float32", 3)
    )
    key = jax.random.split(jax.random.key(5))[1]  # as init_state gives it to a run
    made = jax.jit(train_preprocess(config, model, images.card))(key, batch)
    seen, labels = made if isinstance(made, tuple) else (made["image"], made["label"])
    expected = unnormalized(np.asarray(seen), images.card)
    names = ("ant", "bee", "cat")
    for row, one in enumerate(sheet.shown):
        stored = images.splits.train[int(batch["index"][row])]
        assert (one.stored.example["image"] == stored["image"]).all()
        assert one.stored.label == names[int(stored["label"])]
        assert one.seen is not None
        np.testing.assert_array_equal(one.seen.example["image"], expected[row])
        shares = {name: share for share, name in (line.split(" % ") for line in one.seen.label.split("\n"))}
        for name, share in zip(names, np.asarray(labels)[row].tolist(), strict=True):
            assert float(shares.get(name, 0)) == pytest.approx(100 * share, abs=0.51)
    assert "on the device flip, normalized" in sheet.lines[1]


def test_without_transforms_the_network_sees_the_stored_pixels(tmp_path):
    config = config_of(tmp_path)
    for split in ("train", "val", "test", "all"):
        sheet = sheet_of_config(Named("x", config), config, Which(split, 4))
        for one in sheet.shown:
            assert one.seen is not None
            assert (one.seen.example["image"] == one.stored.example["image"]).all()
            assert one.seen.label == one.stored.label
    bare = sheet_of_source(config, Which(None, 3))
    assert bare.title == "Examples of npz:set.npz, split all"
    assert [one.seen for one in bare.shown] == [None] * 3


def test_what_cannot_be_shown_is_refused(tmp_path):
    config = config_of(tmp_path)
    with pytest.raises(UsageError, match="no split 'tset'"):
        sheet_of_config(Named("x", config), config, Which("tset"))
    with pytest.raises(UsageError, match="has no split 'test' of its own: it has all"):
        sheet_of_source(config, Which("test"))
    with pytest.raises(UsageError, match="step 9 is not one of the 6 of an epoch"):
        sheet_of_config(Named("x", config), config, Which(step=9))
    assert named(str(tmp_path / "set.npz")).bare
    assert named("digits").what == "recipe digits"


FIELDS: dict[str, Meaning] = {"image": "image", "segmentation": "mask", "boxes": "boxes"}


def drawn(tmp_path, example: dict[str, np.ndarray], meanings: dict[str, Meaning]) -> np.ndarray:
    style = Style(tuple(f"class {k}" for k in range(4)), meanings)
    shown = [Shown("/a/b/c.png", Seen(example, "a label"), Seen(example, "50 % a\n50 % b"))]
    draw_sheet(Sheet("A title", ("a line",), shown, style), tmp_path / "sheet.png")
    picture = cv2.imread(str(tmp_path / "sheet.png"))
    assert picture is not None
    return picture[..., ::-1]


def pixels_of(picture: np.ndarray, colour: np.ndarray) -> int:
    return int((np.abs(picture.astype(int) - np.rint(colour * 255).astype(int)).max(axis=-1) <= 2).sum())


def test_masks_and_boxes_have_their_colours(tmp_path):
    from matplotlib.colors import to_rgb

    image, mask = np.full((20, 30, 3), 200, np.uint8), np.full((20, 30), 255)
    mask[:10, :10] = 1
    example = {
        "image": image,
        "segmentation": mask,
        "boxes": np.array([[12, 15, 18, 28], [0, 0, 0, 0]], np.float32),
        "box_label": np.array([2, -1], np.int32),
    }
    picture = drawn(tmp_path, example, FIELDS)
    tinted = 0.45 * 200 / 255 + 0.55 * np.array(to_rgb(colour_of(1)))
    fifth = pixels_of(picture, np.full(3, 200 / 255)) / 5  # 100 of 600 pixels have the class, but for the box's lines
    assert pixels_of(picture, tinted) == pytest.approx(fifth, rel=0.25)
    assert pixels_of(picture, np.array(to_rgb(colour_of(2)))) > 500  # the box and the legend
    assert pixels_of(picture, np.array(to_rgb(colour_of(3)))) == 0  # no such class


@pytest.mark.parametrize(
    ("example", "meaning"),
    [
        pytest.param(np.linspace(-1, 1, 100)[:, None] * np.ones(2), "signal", marks=pytest.mark.slow),
        (np.random.default_rng(0).normal(size=(4000, 1)), "signal"),
        pytest.param(np.random.default_rng(0).normal(size=(50, 40)), "signal", marks=pytest.mark.slow),
        (np.arange(480, dtype=np.uint8).reshape(6, 8, 10, 1) % 255, "volume"),
    ],
)
def test_every_kind_of_input_is_drawn(tmp_path, example, meaning):
    picture = drawn(tmp_path, {"image": example}, {"image": meaning})
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    assert (picture == 255).all(axis=-1).mean() > 0.3  # a light background


def test_values_of_any_kind_become_colours():
    assert as_colours(np.array([[[0.0], [5.0], [np.nan]]]), 0, 10)[0].tolist() == [[0] * 3, [0.5] * 3, [1, 0, 0]]
    assert as_colours(np.array([[[10, 0, 5, 3]]]), 0, 10)[0, 0].tolist() == [1, 0, 0.5]
