"""Texts cut into windows of characters: none is lost but a rest, each knows its file, all are read alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resnet_jax.data import load_dataset
from resnet_jax.data.characters import ALPHABET, OTHER, SYMBOLS, decoded, encoded
from resnet_jax.data.division import Division
from resnet_jax.data.reading import Reading
from resnet_jax.data.split import resolve_splits
from resnet_jax.errors import DataError


@pytest.fixture
def texts(tmp_path):
    for language, words in {"de": "schöne große äpfel ", "en": "nice big apples "}.items():
        (tmp_path / language).mkdir()
        for number in range(4):
            (tmp_path / language / f"{number}.txt").write_text(words * (5 + number), encoding="utf-8")
    (tmp_path / "en" / "short.txt").write_text("Hi,\n you", encoding="utf-8")
    return tmp_path


def test_windows_are_the_text_in_order(texts):
    source: Any = load_dataset(f"text:{texts}", Reading(signal_length=16)).splits["all"]
    lengths = [len(("schöne große äpfel " * (5 + n)).strip()) // 16 for n in range(4)]
    lengths += [len(("nice big apples " * (5 + n)).strip()) // 16 for n in range(4)] + [1]
    assert np.bincount(source.groups).tolist() == lengths
    whole = "".join(decoded(source[i]["image"]) for i in range(lengths[0]))
    assert whole == ("schöne große äpfel " * 5)[: 16 * lengths[0]]
    assert (source[0]["image"].dtype, source[0]["image"].shape) == (np.int16, (16, 1))
    assert decoded(source[len(source) - 1]["image"]) == "hi, you"
    assert source.describe(lengths[0] + 1).endswith("de/1.txt, window 2")


def test_windows_of_one_file_stay_together(texts):
    dataset = load_dataset(f"text:{texts}", Reading(signal_length=16))
    splits: Any = resolve_splits(dataset, Division(0.0, 0.3, group_by="group"))
    source: Any = dataset.splits["all"]
    train, test = (set(source.groups[part.indices]) for part in (splits.train, splits.test))
    assert len(train) + len(test) == 9
    assert not train & test


def test_characters_have_one_number_each():
    assert len(set(ALPHABET)) == len(ALPHABET) == SYMBOLS - 2
    assert encoded("漢").tolist() == [OTHER]
    assert encoded("E\u0301").tolist() == encoded("é").tolist()  # composed or not
    assert decoded(encoded("Żółw, ЛЬВЫ & ἀ")) == "żółw, львы & \ufffd"


def test_what_is_no_text_is_named(texts):
    (texts / "de" / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"bad\.txt: this is not text in UTF-8"):
        load_dataset(f"text:{texts}")
    (texts / "de" / "bad.txt").write_text(" \n ")
    with pytest.raises(DataError, match=r"bad\.txt: there are no characters in it"):
        load_dataset(f"text:{texts}")
    with pytest.raises(DataError, match="characters are one channel, and 3 are wanted"):
        load_dataset(f"text:{texts}", Reading(3))


def test_digits_are_read_row_by_row():
    series, images = (load_dataset(name).splits["all"] for name in ("digits_series", "digits"))
    assert np.array_equal(series.labels, images.labels)
    assert np.array_equal(np.rint(255 * series[7]["image"].reshape(8, 8)), images[7]["image"][..., 0])
    assert series.spec["image"].meaning == "signal"
