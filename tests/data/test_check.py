"""What is planted in a data set is found, and what is not there is not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.data import ArrayRecords, Dataset, load_dataset
from resnet_jax.data.check import check_dataset
from resnet_jax.data.check_hash import NEAR, hashes_of, likeness, near_pairs, small_grey, thumbs_of
from resnet_jax.data.check_modes import mode_of
from resnet_jax.data.check_text import report_lines


def photograph(seed: int, side: int = 96) -> np.ndarray:
    """Return an image with structure at all scales, as photographs have: sums of noise, enlarged."""
    rng = np.random.default_rng(seed)
    found = np.zeros((side, side, 3), np.float32)
    for cells in (3, 6, 12, 24, 48):
        found += cv2.resize(rng.normal(size=(cells, cells, 3)).astype(np.float32) * 90 / cells, (side, side)) * 3
    found = (found - found.min()) / (found.max() - found.min())
    return (found * 255).astype(np.uint8)


def encoded(image: np.ndarray, suffix: str = ".png", *how: int) -> bytes:
    return cv2.imencode(suffix, image[..., ::-1], how)[1].tobytes()


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def pairs_of(groups) -> set[tuple[str, ...]]:
    return {tuple(sorted("/".join(Path(name).parts[-3:]) for name in group.examples)) for group in groups}


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A set of 60 images with everything in it that a check has to find."""
    for number in range(20):
        for split, label, offset in (
            ("train", "cat", 0),
            ("train", "dog", 100),
            ("test", "cat", 200),
            ("test", "dog", 300),
        ):
            if split == "train" or number < 10:
                write(tmp_path / split / label / f"{number:02}.png", encoded(photograph(offset + number)))
    train, test = tmp_path / "train", tmp_path / "test"
    write(train / "cat" / "copy.bmp", encoded(photograph(1), ".bmp"))  # of train/cat/01: another format, equal pixels
    write(test / "cat" / "leak.png", encoded(photograph(2)))  # of train/cat/02
    write(train / "dog" / "conflict.png", encoded(photograph(3)))  # of train/cat/03, under another class
    write(test / "cat" / "jpeg.jpg", encoded(photograph(4), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 60))  # of train/cat/04
    write(test / "dog" / "bright.png", encoded((photograph(105) * 0.8 + 20).astype(np.uint8)))  # of train/dog/05
    small = cv2.resize(photograph(6), (48, 48), interpolation=cv2.INTER_AREA)
    write(train / "cat" / "small.png", encoded(small))  # of train/cat/06
    write(train / "cat" / "flip.png", encoded(photograph(7)[:, ::-1]))  # of train/cat/07: no near duplicate
    whole = encoded(photograph(8))
    write(train / "cat" / "cut.png", whole[: len(whole) // 2])
    write(test / "dog" / "text.jpg", b"this is no image at all")
    return tmp_path


def test_everything_that_is_planted_is_found_and_nothing_else(planted):
    report = check_dataset(load_dataset(f"folder:{planted}"))
    assert {"/".join(Path(name).parts[-3:]) for _, name, _ in report.unreadable} == {
        "train/cat/cut.png",
        "test/dog/text.jpg",
    }
    assert pairs_of(report.same) == {
        ("train/cat/01.png", "train/cat/copy.bmp"),
        ("test/cat/leak.png", "train/cat/02.png"),
        ("train/cat/03.png", "train/dog/conflict.png"),
    }
    assert pairs_of(report.leaks) == {("test/cat/leak.png", "train/cat/02.png")}
    assert pairs_of(report.conflicts) == {("train/cat/03.png", "train/dog/conflict.png")}
    assert pairs_of(report.near) == {
        ("test/cat/jpeg.jpg", "train/cat/04.png"),
        ("test/dog/bright.png", "train/dog/05.png"),
        ("train/cat/06.png", "train/cat/small.png"),
    }
    assert len(report.near_leaks) == 2
    assert [len(report.problems(strict=strict)) for strict in (False, True)] == [2, 4]
    assert report.counts == {"train": [24, 21], "test": [12, 12]}
    assert report.shapes[(48, 48, 3)] == 1
    assert report.modes == {"PNG, RGB, 8 bit": 65, "BMP, 24 bit": 1, "JPEG, colour, 8 bit": 1}
    text = "\n".join(report_lines(report))
    assert "unreadable: 2 of 69" in text
    assert "the same in several splits (leakage): 1" in text
    assert "train/cat/02.png (train, cat) = " in text
    assert json.loads(json.dumps(report.to_dict()))["near"]["across_splits"] == 2


def test_mean_and_deviation_are_those_of_the_training_images(planted):
    from resnet_jax.data import channel_stats

    (planted / "train" / "cat" / "cut.png").unlink()
    dataset = load_dataset(f"folder:{planted}")
    mean, std = channel_stats(dataset.splits["train"])
    report = check_dataset(dataset, threads=3)
    np.testing.assert_allclose(report.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(report.std, std, rtol=1e-12)


def test_1797_digits_have_ten_near_pairs_of_equal_class_and_no_equal_ones():
    report = check_dataset(load_dataset("digits"))
    assert (len(report.same), len(report.near)) == (0, 10)
    assert not any(pair.conflict for pair in report.near)
    assert report.problems(strict=True) == ()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 120), st.integers(0, 8))
def test_pairs_are_those_of_comparing_all(seed, count, near):
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**63, 6, dtype=np.uint64)
    flips = np.array([sum(1 << int(b) for b in rng.integers(0, 64, rng.integers(0, 9))) % 2**64 for _ in range(count)])
    hashes = base[rng.integers(0, 6, count)] ^ flips.astype(np.uint64)
    thumbs = rng.integers(-100, 100, (count, 256)).astype(np.int8)
    first, second = np.triu_indices(count, 1)
    close = (np.bitwise_count(hashes[first] ^ hashes[second]) <= near) & (likeness(thumbs, first, second) >= 0.0)
    found, _ = near_pairs(hashes, thumbs, near=near, least=0.0)
    assert {tuple(pair) for pair in found.tolist()} == set(
        zip(first[close].tolist(), second[close].tolist(), strict=True)
    )


def test_a_band_too_full_is_compared_with_its_neighbours_only_and_counted(monkeypatch):
    from resnet_jax.data import check_hash

    monkeypatch.setattr(check_hash, "MOST_IN_BAND", 50)
    monkeypatch.setattr(check_hash, "NEIGHBOURS", 3)
    monkeypatch.setattr(check_hash, "_BLOCK", 10)
    hashes, thumbs = np.zeros(100, np.uint64), np.tile(np.arange(-128, 128, dtype=np.int8), (100, 1))
    pairs, full = near_pairs(hashes, thumbs)
    assert full == 100
    assert 99 <= len(pairs) < 100 * 99 / 2


@pytest.mark.slow
def test_sixty_thousand_random_hashes_take_seconds():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 60_000, dtype=np.uint64)
    began = time.perf_counter()
    pairs, full = near_pairs(hashes, rng.integers(-100, 100, (60_000, 256)).astype(np.int8))
    assert len(pairs) == full == 0
    assert time.perf_counter() - began < 60


@pytest.mark.parametrize("change", ["jpeg", "bright", "contrast", "half", "double", "noise", "grey"])
def test_the_hash_hardly_moves_when_an_image_is_saved_again_and_a_flip_is_another(change):
    rng = np.random.default_rng(1)

    def changed(image):
        match change:
            case "jpeg":
                return cv2.imdecode(np.frombuffer(encoded(image, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 50), np.uint8), 1)[
                    ..., ::-1
                ]
            case "bright":
                return np.clip(image.astype(int) + 25, 0, 255).astype(np.uint8)
            case "contrast":
                return (image * 0.7).astype(np.uint8)
            case "half":
                return cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA)
            case "double":
                return cv2.resize(image, (192, 192), interpolation=cv2.INTER_CUBIC)
            case "noise":
                return np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)
            case _:
                return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]

    images = [photograph(seed) for seed in range(20)]
    greys = np.stack([small_grey(image) for image in images])
    again = np.stack([small_grey(np.ascontiguousarray(changed(image))) for image in images])
    flips = np.stack([small_grey(np.ascontiguousarray(image[:, ::-1])) for image in images])
    assert (np.bitwise_count(hashes_of(greys) ^ hashes_of(again)) <= NEAR).all()
    assert (np.bitwise_count(hashes_of(greys) ^ hashes_of(flips)) > 16).all()
    both = np.concatenate([thumbs_of(greys), thumbs_of(again)])
    assert (likeness(both, np.arange(20), np.arange(20) + 20) > 0.985).all()


def test_images_of_one_colour_are_no_near_duplicates_of_each_other():
    flat = np.stack([np.full((16, 16), value, np.uint8) for value in (0, 100, 200)])
    report = check_dataset(Dataset("flat", {"all": ArrayRecords(flat, np.array([0, 1, 1]))}, ("a", "b")))
    assert (report.same, report.near) == ((), ())


def test_other_dtypes_signals_and_several_labels():
    signals = np.random.default_rng(0).normal(size=(12, 50, 2)).astype(np.float32)
    signals[5] = signals[2]
    rows = np.zeros((12, 3), np.float32)
    rows[:, 1] = rows[:4, 2] = 1
    records = ArrayRecords(signals, rows, meaning="signal")
    report = check_dataset(Dataset("s", {"all": records}, ("x", "y", "z"), kind="multi-label"))
    assert (len(report.same), report.looked_for_near) == (1, False)
    assert report.counts == {"all": [0, 12, 4]}
    text = "\n".join(report_lines(report))
    assert "nearly the same: looked for among images only" in text
    assert "1 classes have none: x" in text
    assert "may come to be trained and tested on" in text
    np.testing.assert_allclose(report.mean, signals.reshape(-1, 2).mean(axis=0), rtol=1e-4)
    values = Dataset("v", {"all": ArrayRecords(signals, rows[:, 2], meaning="signal")}, ("depth",), kind="value")
    assert "target    depth: 0 to 1" in "\n".join(report_lines(check_dataset(values)))


def test_masks_and_boxes_are_counted(tmp_path):
    from tests.data.kinds.test_batches import square

    root = square(tmp_path)
    masks = check_dataset(load_dataset(f"masks:{root / 'masks'}"))
    assert masks.counts == {"all": [6 * (40 * 48 - 12 * 14), 6 * 12 * 14]}
    assert masks.details["images_with_class"] == {"0": 6, "1": 6}
    boxes = check_dataset(load_dataset(f"voc:{root / 'voc'}"))
    assert boxes.counts == {"all": [6]}
    assert boxes.details["heights"] == [12, 12, 12]
    assert boxes.details["boxes_per_image"] == {1: 6}
    assert "6, 1 to 1 an image" in "\n".join(report_lines(boxes))


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (encoded(photograph(0), ".jpg"), "JPEG, colour, 8 bit"),
        (cv2.imencode(".jpg", photograph(0)[..., 0])[1].tobytes(), "JPEG, grey, 8 bit"),
        (cv2.imencode(".png", photograph(0).astype(np.uint16))[1].tobytes(), "PNG, RGB, 16 bit"),
        (b"GIF89a", "GIF, palette"),
        (encoded(photograph(0), ".bmp"), "BMP, 24 bit"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"\0\1\2", "unknown"),
    ],
)
def test_how_a_file_is_stored(data, mode):
    assert mode_of(data) == mode
