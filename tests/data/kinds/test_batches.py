"""Every kind through views, geometry, memory and batches; masks and boxes stay on their objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resnet_jax.data import EvalBatches, TrainBatches, load_dataset, materialize, resolve_splits
from resnet_jax.data.kinds.detect import source_at
from resnet_jax.data.look import look_at, source_of
from resnet_jax.data.transform import Geometry
from resnet_jax.errors import DataError, UsageError

from .conftest import write_image
from .test_coco import coco
from .test_masks import png
from .test_ucr import write as write_series
from .test_voc import annotation, thing, voc
from .test_volumes import volume, write as write_volume
from .test_wav import tone, write as write_sound


def square(root: Path, count: int = 6) -> Path:
    """Write images with one white square, its mask and its box."""
    rng = np.random.default_rng(3)
    for number in range(count):
        top, left = (int(v) for v in rng.integers(2, 20, 2))
        image, mask = np.zeros((40, 48, 3), np.uint8), np.zeros((40, 48), int)
        image[top : top + 12, left : left + 14] = 255
        mask[top : top + 12, left : left + 14] = 1
        write_image(root / "masks" / "images" / f"{number}.png", image)
        (root / "masks" / "labels").mkdir(exist_ok=True)
        (root / "masks" / "labels" / f"{number}.png").write_bytes(png(mask))
        box = thing("square", left + 1, top + 1, left + 14, top + 12)
        voc(root / "voc", **{f"i{number}": annotation(box, width=48, height=40)})
        write_image(root / "voc" / "JPEGImages" / f"i{number}.png", image)
    return root


@pytest.mark.parametrize("geometry", [Geometry(24, "random_resized"), Geometry(32)])
def test_masks_and_boxes_move_with_the_image(tmp_path, geometry):
    root = square(tmp_path)
    masks = TrainBatches(load_dataset(f"masks:{root / 'masks'}").splits["all"], 6, seed=1, geometry=geometry)
    boxes = TrainBatches(load_dataset(f"voc:{root / 'voc'}").splits["all"], 6, seed=1, geometry=geometry)
    size = geometry.image_size
    seen = 0
    for step in range(8):
        batch, boxed = masks.batch(step), boxes.batch(step)
        assert batch["segmentation"].shape == (6, size, size)
        assert batch["segmentation"].dtype == np.uint8
        np.testing.assert_array_equal(batch["index"], boxed["index"])  # the same crops
        np.testing.assert_array_equal(batch["image"], boxed["image"])
        white = batch["image"][..., 0] >= 128
        assert (white == (batch["segmentation"] == 1)).mean() > 0.93
        for row in range(6):
            inside = np.zeros((size, size), bool)
            if boxed["box_label"][row, 0] >= 0:
                top, left, bottom, right = boxed["boxes"][row, 0].round().astype(int)
                inside[top:bottom, left:right] = True
                seen += 1
            assert (inside == white[row]).mean() > 0.9
    assert seen > 20


def kinds(root: Path) -> dict[str, tuple[Path, dict]]:
    """Write a small set of every kind; return source kind -> its path and how it is read."""
    square(root)
    for label in "ab":
        for number in range(4):
            write_sound(root / "wav" / label / f"{number}.wav", tone(number, 40 + number))
            write_volume(root / "volumes" / label / f"{number}.npy", volume(number))
    (root / "ucr").mkdir()
    write_series(root / "ucr" / "X_TRAIN.ts", "1,2,3:a\n" * 5 + "2,3,4:b\n" * 5)
    write_series(root / "ucr" / "X_TEST.ts", "1,2,3:a\n2,3,4:b\n")
    coco(root / "coco", root / "coco" / "images", "x.json")
    return {
        "masks": (root / "masks", {}),
        "voc": (root / "voc", {}),
        "coco": (root / "coco", {}),
        "wav": (root / "wav", {}),
        "volumes": (root / "volumes", {}),
        "ucr": (root / "ucr", {}),
    }


def test_every_kind_is_divided_held_in_memory_and_batched_alike(tmp_path):
    for kind, (path, how) in kinds(tmp_path).items():
        dataset = load_dataset(f"{kind}:{path}", **how)
        if kind == "coco":
            records = dataset.splits["all"]
        else:
            splits = resolve_splits(dataset, val_fraction=0.2, test_fraction=0.3)
            assert not any("have no image" in note for note in splits.notes), kind
            records = splits.train
        held = materialize(records, Geometry(), training=True)
        for source in (records, held):
            assert {name: field.meaning for name, field in source.spec.items()} == {
                name: field.meaning for name, field in records.spec.items()
            }
        first, second = (TrainBatches(source, 2, seed=0).batch(1) for source in (records, held))
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=f"{kind} {name}")
        counted = [index for batch in EvalBatches(records, 4) for index in batch["index"] if index >= 0]
        assert counted == list(range(len(records)))
        threaded = list(TrainBatches(records, 2, seed=0).iterate(0, 3, threads=2))
        np.testing.assert_array_equal(threaded[1]["image"], first["image"])


def test_a_bare_path_says_what_to_write(tmp_path):
    for kind, (path, _) in kinds(tmp_path).items():
        if kind == "volumes":  # .npy files may be images as well
            continue
        assert source_of(str(path)) == f"{kind}:{path}"
        with pytest.raises(UsageError, match=f"write {kind}:{path}"):
            load_dataset(str(path))
    found = look_at(str(tmp_path / "masks"))
    assert (found.source, found.label_kind) == (f"masks:{tmp_path / 'masks'}", "segmentation")
    file = tmp_path / "coco" / "x.json"
    with pytest.raises(UsageError, match=f"write coco:{file}"):
        load_dataset(str(file))
    (tmp_path / "nii" / "a").mkdir(parents=True)
    (tmp_path / "nii" / "a" / "x.nii.gz").write_bytes(b"x")
    assert source_at(tmp_path / "nii") == (f"volumes:{tmp_path / 'nii'}", "volumes")


def test_folders_of_images_stay_folders(make_images):
    assert source_at(make_images) is None
    assert source_of(str(make_images)) == f"folder:{make_images}"


@pytest.fixture
def make_images(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            write_image(tmp_path / "set" / split / label / "1.png", np.zeros((4, 4, 3), np.uint8))
    return tmp_path / "set"


def test_an_option_that_a_kind_does_not_use_is_refused(tmp_path):
    root = square(tmp_path)
    for source, wanted in (
        ("voc", {"orientation": "exif"}),
        ("masks", {"signal_length": 3}),
        ("wav", {"void_value": 0}),
    ):
        with pytest.raises(UsageError, match=f"data.{next(iter(wanted))} .* is not used by {source}:PATH"):
            load_dataset(f"{source}:{root}", **wanted)
    with pytest.raises(DataError):
        load_dataset(f"voc:{root / 'nowhere'}")


def test_a_file_that_is_gone_or_empty_after_opening_is_named_by_the_batch(tmp_path):
    for kind, (path, how) in kinds(tmp_path).items():
        if kind == "ucr":  # in memory
            continue
        records = load_dataset(f"{kind}:{path}", **how).splits["all"]
        batches = EvalBatches(records, 2)
        gone = Path(records.describe(0))
        gone.write_bytes(b"")
        with pytest.raises(DataError, match=f"{gone.name}: the file is empty"):
            next(iter(batches))
        gone.unlink()
        with pytest.raises(DataError, match=f"{gone.name}: cannot read it"):
            next(iter(batches))


def test_links_out_of_the_folder_are_followed_and_those_to_nowhere_named(tmp_path):
    write_sound(tmp_path / "outside" / "1.wav", tone(1))
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        (tmp_path / "set" / label / "odd name\n é.wav").symlink_to(tmp_path / "outside" / "1.wav")
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")  # back to a folder above
    data = load_dataset(f"wav:{tmp_path / 'set'}")
    assert len(data.splits["all"]) == 2
    assert any("links that lead back" in note for note in data.notes)
    (tmp_path / "outside" / "1.wav").unlink()
    with pytest.raises(DataError, match="a link that leads nowhere"):
        load_dataset(f"wav:{tmp_path / 'set'}")
