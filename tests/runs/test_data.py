"""The images of a run: what decides about their pixels, and what is looked at before the start."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from resnet_jax.ablation.run import _ImagesOnce
from resnet_jax.data import verify
from resnet_jax.errors import DataError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs import data as images
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.data import PixelsWanted, load_images, load_pixels

OTHER = DataConfig(
    source="folder:x",
    val_fraction=0.3,
    test_fraction=0.4,
    split_seed=5,
    image_size=6,
    augment=("random_resized_crop",),
    mean=(0.5,),
    std=(0.5,),
    threads=7,
    pixels="stored",
    split="hash",
    group_by="^(p[0-9]+)_",
    fold="1/5",
    subset=0.1,
    balance="classes",
    repeats=2,
)
DIVISION = {"val_fraction", "test_fraction", "split_seed", "split", "group_by", "fold", "subset"}
PIXELS = {"source", "image_size", "augment", "pixels", *DIVISION}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DataConfig)])
def test_only_fields_that_change_pixels_or_their_division_decide_what_is_loaded(field):
    base = RunConfig(data=DataConfig(image_size=8, augment=("flip",)))
    fields = ("mean", "std") if field in ("mean", "std") else (field,)  # which go together
    changed = dataclasses.replace(base.data, **{name: getattr(OTHER, name) for name in fields})
    assert (PixelsWanted.of(dataclasses.replace(base, data=changed)) != PixelsWanted.of(base)) == (field in PIXELS)


@pytest.fixture
def photographs(tmp_path):
    """Two classes of ten images of several sizes, as JPEG."""
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(10):
            image = rng.integers(0, 256, (12 + i, 15, 3), np.uint8)
            (tmp_path / "set" / name / f"{i}.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    return tmp_path / "set"


def test_cells_that_differ_in_what_is_done_to_images_later_decode_them_once(photographs, monkeypatch):
    loads, counts = [], []
    load, count = images.load_pixels, images.channel_stats
    monkeypatch.setattr("resnet_jax.ablation.run.load_pixels", lambda wanted: loads.append(wanted) or load(wanted))
    monkeypatch.setattr(images, "channel_stats", lambda records, **how: counts.append(records) or count(records, **how))
    said = []
    once = _ImagesOnce(said.append)
    base = DataConfig(source=f"folder:{photographs}", image_size=8, augment=("random_resized_crop",))
    cells = [base]
    cells += [dataclasses.replace(base, augment=(*base.augment, f"cutout({n})")) for n in (2, 4)]
    cells += [dataclasses.replace(base, augment=(*base.augment, mix)) for mix in ("mixup(0.2)", "cutmix(1, 0.5)")]
    cells += [dataclasses.replace(base, augment=(*base.augment, "random_crop(1)", "flip"), threads=0)]
    cells += [dataclasses.replace(base, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))]
    found = [once(RunConfig(data=data)) for data in cells]
    assert (len(loads), len(counts)) == (1, 1)
    assert all(each.splits is found[0].splits for each in found)
    assert found[-1].card.mean == (0.5, 0.5, 0.5) != found[0].card.mean
    once(RunConfig(data=dataclasses.replace(base, image_size=9)))
    once(RunConfig(model=ModelSpec(in_channels=1), data=base))
    assert len(loads) == 3


def with_crops(photographs):
    data = DataConfig(
        source=f"folder:{photographs}", image_size=8, augment=("random_resized_crop",), mean=(0.5,) * 3, std=(0.2,) * 3
    )
    return RunConfig(data=data)


@pytest.mark.parametrize("number", range(10))
def test_a_broken_file_shows_at_the_start_with_random_crops_and_a_given_mean_too(photographs, number):
    path = photographs / "bee" / f"{number}.jpg"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(
        DataError, match=rf"bee/{number}\.jpg: cannot decode these .* begin as a JPEG image but are cut"
    ):
        load_images(with_crops(photographs))


def test_where_there_are_too_many_files_to_look_at_it_is_said(photographs, monkeypatch):
    config = with_crops(photographs)
    assert load_images(config).splits.notes == ()
    monkeypatch.setattr(verify.check_readable, "__kwdefaults__", {"limit_bytes": 100, "threads": None})
    (note,) = load_images(config).splits.notes
    assert note.startswith("the 14 train images are too many to check before the start")


def test_a_class_that_is_tested_and_not_trained_on_is_refused(tmp_path):
    x, y = np.zeros((12, 8, 8), np.uint8), np.arange(12) % 3
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y % 2, x_test=x, y_test=y)
    with pytest.raises(DataError, match=r"1 of 3 classes have images in test \(4 of 12\) and none in train: 2;"):
        load_images(RunConfig(data=DataConfig(source=f"npz:{tmp_path}/a.npz")))


def test_labels_that_count_from_one_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((50, 8, 8), np.uint8), y=np.arange(50) % 10 + 1)
    with pytest.raises(DataError, match=r"labels are 1\.\.10, but classes are counted from 0: save y - 1"):
        load_pixels(PixelsWanted.of(RunConfig(data=DataConfig(source=f"npz:{tmp_path}/a.npz"))))
