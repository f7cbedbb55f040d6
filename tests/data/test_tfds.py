"""Against a tiny set prepared on the spot, without TensorFlow."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from resnet_jax.data import tfds_labels
from resnet_jax.data.record_file import RecordFile
from resnet_jax.data.source import load_dataset
from resnet_jax.data.tfds import load_tfds
from resnet_jax.data.tfds_examples import PreparedExamples
from resnet_jax.errors import DataError, UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), np.uint8)
LABELS = np.arange(12) % 3
IMAGE, LABEL = (
    tfds.features.Image(shape=(None, None, 3)),
    tfds.features.ClassLabel(names=["ant", "bee", "cow"]),
)


def png(image: np.ndarray) -> bytes:
    """Encode uint8 RGB (h, w, 3) or grey (h, w, 1) without loss."""
    return cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)[1].tobytes()


class Base(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images as encoded bytes: arrays would need TensorFlow's encoder."""

    VERSION = tfds.core.Version("1.0.0")
    FEATURES: ClassVar[dict] = {"image": IMAGE, "label": LABEL}
    SUPERVISED: tuple[str, str] | None = None
    SPLITS: ClassVar[dict] = {"train": range(8), "test": range(8, 12)}
    UNLABELLED: tuple = ()

    def _info(self):
        features = tfds.features.FeaturesDict(self.FEATURES)
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=self.SUPERVISED)

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name, rows) for name, rows in self.SPLITS.items()}

    def _generate_examples(self, name, rows):
        for i in rows:
            example = {}
            for key, feature in self.FEATURES.items():
                if isinstance(feature, tfds.features.Image):
                    image = IMAGES[i] if feature.shape[-1] == 3 else IMAGES[i, ..., :1]
                    example[key] = io.BytesIO(png(image))
                else:
                    example[key] = -1 if name in self.UNLABELLED else int(LABELS[i])
            yield i, example


def prepare(data_dir: Path, name: str, **attributes) -> str:
    """Define a builder class of this name, prepare it, and return its location for `load_tfds`."""
    body = {**attributes, "__module__": __name__}
    builder_class = type(name, (Base,), body, skip_registration=True)
    builder_class(data_dir=str(data_dir), file_format="array_record").download_and_prepare()
    return f"{builder_class.name}@{data_dir}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep no labels beyond a test."""
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "cache"))


def test_images_labels_names_and_splits(tmp_path, capsys):
    dataset = load_tfds(prepare(tmp_path, "TinySplits"))
    assert dataset.class_names == ("ant", "bee", "cow")
    assert {name: len(records) for name, records in dataset.splits.items()} == {"train": 8, "test": 4}
    seen = []
    for split, records in dataset.splits.items():
        for i in range(len(records)):
            image = records[i]["image"]
            match = [j for j in range(12) if np.array_equal(IMAGES[j], image)]
            assert records.labels[i] == LABELS[match[0]]
            seen += match
        assert records.describe(0) == f"index 0 of split {split!r} of {dataset.name}"
    assert sorted(seen) == list(range(12))
    assert "tensorflow" not in sys.modules


def test_a_path_to_a_prepared_set_says_what_to_type(tmp_path):
    prepare(tmp_path, "TinyFound")
    for path in (tmp_path, tmp_path / "tiny_found", tmp_path / "tiny_found" / "1.0.0"):
        message = rf"it holds tiny_found, prepared by TFDS: write tfds:tiny_found@{tmp_path}$"
        with pytest.raises(UsageError, match=message):
            load_dataset(str(path))


def test_threads_read_the_same(tmp_path):
    records = load_tfds(prepare(tmp_path, "TinyThreads")).splits["train"]
    expected = [records[i]["image"] for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for i, image in enumerate(pool.map(records.image, list(range(8)) * 20)):
            np.testing.assert_array_equal(image, expected[i % 8])


def test_several_shards_are_read_in_the_order_of_tfds(tmp_path):
    builder_class = type("TinyShards", (Base,), {"__module__": __name__}, skip_registration=True)
    builder = builder_class(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
    assert len(list((tmp_path / "tiny_shards" / "1.0.0").glob("*train*"))) == 3
    for split in ("train", "test"):
        records = load_tfds(f"tiny_shards@{tmp_path}").splits[split]
        theirs = builder.as_data_source(split)
        assert len(records) == len(theirs)
        for index, example in enumerate(theirs):
            np.testing.assert_array_equal(records[index]["image"], example["image"])
            assert records.labels[index] == example["label"]
    (second,) = (tmp_path / "tiny_shards" / "1.0.0").glob("*train*-00001-of-*")
    second.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"{second}: cannot read it \(No such file"):
        load_tfds(f"tiny_shards@{tmp_path}")
    shards = [file for file in second.parent.glob("*array_record*") if len(RecordFile(file)) != 3]
    other = next(file for file in shards if len(RecordFile(file)) != len(RecordFile(tmp_path / "elsewhere")))
    shutil.copy(other, second)
    with pytest.raises(
        DataError, match=r"the 3 files of split 'train' hold \[.*\] examples, and dataset_info\.json says"
    ):
        load_tfds(f"tiny_shards@{tmp_path}")


def test_channels_default_to_the_stored_ones(tmp_path):
    grey = {"image": tfds.features.Image(shape=(5, 4, 1)), "label": LABEL}
    location = prepare(tmp_path, "TinyGrey", FEATURES=grey)
    assert load_tfds(location).splits["train"][0]["image"].shape == (5, 4, 1)
    assert load_tfds(location, 3).splits["train"][0]["image"].shape == (5, 4, 3)


def test_split_names(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_labels, "READ_CHUNK", 3)
    one = load_tfds(prepare(tmp_path, "TinyOne", SPLITS={"train": range(12)}))
    assert list(one.splits) == ["all"]
    assert sorted(one.splits["all"].labels.tolist()) == sorted(LABELS.tolist())
    many = {"train": range(6), "validation": range(6, 8), "extra": range(8, 10), "test": range(10, 12)}
    three = load_tfds(prepare(tmp_path, "TinyThree", SPLITS=many, UNLABELLED=("test",)))
    assert {name: len(records) for name, records in three.splits.items()} == {"train": 6, "val": 2}
    assert three.notes == ("splits left out, with their images: extra (2), test (2, not labelled)",)
    assert three.origins == {"train": "train", "val": "validation"}


class Reads:
    """Counts the records that are read, whoever reads them."""

    def __init__(self, monkeypatch):
        self.count = 0
        collect = tfds_labels._collect

        def counting(source, indices, key):
            self.count += len(indices)
            return collect(source, indices, key)

        monkeypatch.setattr(tfds_labels, "_collect", counting)


@pytest.mark.parametrize("kept", [True, False])
def test_labels_are_read_from_every_record_only_the_first_time(tmp_path, monkeypatch, kept):
    if not kept:
        monkeypatch.setenv("RESNET_JAX_CACHE", "off")
    monkeypatch.setattr(tfds_labels, "PROBES", 2)
    location = prepare(tmp_path, "TinyOften")
    reads = Reads(monkeypatch)
    first = load_tfds(location)
    assert reads.count == 12
    again = load_tfds(location)
    assert reads.count == 12 + (2 * 2 if kept else 12)
    for split in ("train", "test"):
        np.testing.assert_array_equal(first.splits[split].labels, again.splits[split].labels)


def test_a_set_prepared_anew_is_read_anew(tmp_path):
    location = prepare(tmp_path, "TinyAnew", SPLITS={"train": range(6)})
    before = load_tfds(location).splits["all"].labels
    files = sorted((tmp_path / "tiny_anew").rglob("*.array_record*"))
    times = [(file.stat().st_atime_ns, file.stat().st_mtime_ns) for file in files]
    shutil.rmtree(tmp_path / "tiny_anew")
    prepare(tmp_path, "TinyAnew", SPLITS={"train": (0, 3, 6, 9, 1, 4)})  # the same names, sizes and counts
    for file, time in zip(files, times, strict=True):
        os.utime(file, ns=time)
    records = load_tfds(location).splits["all"]
    expected = [LABELS[next(j for j in range(12) if np.array_equal(IMAGES[j], records[i]["image"]))] for i in range(6)]
    assert records.labels.tolist() == expected
    assert sorted(before) != sorted(expected)


def test_spoilt_or_unwritable_kept_labels_are_read_again(tmp_path, monkeypatch, caplog):
    location = prepare(tmp_path, "TinySpoilt")
    expected = load_tfds(location).splits["train"].labels
    for file in (tmp_path / "cache" / "labels").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    np.testing.assert_array_equal(load_tfds(location).splits["train"].labels, expected)
    (tmp_path / "blocked").write_text("a file where the directory would be")
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "blocked"))
    np.testing.assert_array_equal(load_tfds(location).splits["train"].labels, expected)
    assert "labels are not stored" in caplog.text


def test_one_unlabelled_example_is_an_error(tmp_path):
    location = prepare(tmp_path, "TinyUnlabelled", SPLITS={"train": range(3)}, UNLABELLED=("train",))
    with pytest.raises(DataError, match=r"label -1 at index 0 .* is outside 0\.\.2"):
        load_tfds(location)


def test_the_supervised_pair_decides_even_where_it_is_no_class(tmp_path):
    other = {"image": IMAGE, "label": LABEL, "name": tfds.features.Text()}
    location = prepare(tmp_path, "TinyOdd", FEATURES={"image": IMAGE, "label": LABEL})
    folder = tmp_path / "tiny_odd" / "1.0.0"
    info = json.loads((folder / "dataset_info.json").read_text())
    info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "name"}]}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    tfds.features.FeaturesDict(other).save_config(str(folder))
    with pytest.raises(DataError, match=r"its examples are labelled by 'name', a Text; sets of images with one class"):
        load_tfds(location)
    with pytest.raises(DataError, match=r"record 0 of .* the example has no feature 'name'"):
        PreparedExamples((RecordFile(next(folder.glob("*train*"))),), ("name",))[0]


def test_the_supervised_pair_decides_between_two_labels(tmp_path):
    two = {"image": IMAGE, "coarse": tfds.features.ClassLabel(names=["x", "y", "z"]), "fine": LABEL}
    location = prepare(tmp_path, "TinyTwo", FEATURES=two, SUPERVISED=("image", "fine"))
    assert load_tfds(location).class_names == ("ant", "bee", "cow")
    location = prepare(tmp_path, "TinyAmbiguous", FEATURES=two)
    with pytest.raises(DataError, match=r"need one ClassLabel feature, found coarse, fine \(features: coarse: Class"):
        load_tfds(location)
    location = prepare(tmp_path, "TinyNoImage", FEATURES={"label": LABEL})
    with pytest.raises(DataError, match=r"need one Image feature, found none \(features: label: ClassLabel\)"):
        load_tfds(location)


def test_not_prepared_says_how_to(tmp_path):
    with pytest.raises(DataError, match="tfds:mnist: not prepared in ") as error:
        load_tfds(f"mnist@{tmp_path}")
    assert f"prepare it once with\n  resnet-jax data prepare mnist --data-dir {tmp_path}" in str(error.value)


def test_default_folder(monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"not prepared in the default folder of TFDS \(TFDS_DATA_DIR\)") as error:
        load_tfds("kmnist")
    assert "data_dir" not in str(error.value)


def test_another_file_format_says_so(tmp_path):
    location = prepare(tmp_path, "TinyRecord")
    info = tmp_path / "tiny_record" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(
        DataError,
        match=r"tiny_record/1\.0\.0 is in the format tfrecord, which .*; remove it, then resnet-jax data",
    ):
        load_tfds(location)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", r"tfds:mnits: no built-in set has this name and .* holds none; did you mean 'mnist'\?"),
        ("zzzzqqqq", "no built-in set has this name and .* holds none$"),
        ("mnist:9.9.9", "9.9.9"),
        ("not a name", "Parsing builder name string not a name failed"),
    ],
)
def test_unknown_names(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        load_tfds(f"{name}@{tmp_path}")
