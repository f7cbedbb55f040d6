"""Sets that TFDS knows, prepared here from other data, or by their own code with files that were not downloaded."""

from __future__ import annotations

import io
import json
import struct
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import utils

from resnet_jax.data import load_dataset, prepare as prepare_module
from resnet_jax.data.cifar_names import CIFAR10, CIFAR100, SUPERCLASSES, superclass
from resnet_jax.data.encoded import encoder_of
from resnet_jax.data.example import Source
from resnet_jax.data.prepare import prepare
from resnet_jax.data.tfds_builder import find_builder
from resnet_jax.data.tfds_examples import PreparedExamples, _parse
from resnet_jax.errors import DataError, UsageError
from resnet_jax.runtime.distribution import install

#: Sets of the catalogue with one class an image, in all the shapes that their features have.
NAMES = (
    "mnist fashion_mnist kmnist emnist/balanced cifar10 cifar100 svhn_cropped imagenette/160px-v2 imagenet2012 "
    "imagenet_v2 imagenet_resized/8x8 oxford_flowers102 caltech101 stl10 food101 stanford_dogs dtd eurosat/rgb "
    "tf_flowers cats_vs_dogs patch_camelyon beans colorectal_histology places365_small sun397/tfds plant_village "
    "binary_alpha_digits quickdraw_bitmap deep_weeds dmlab"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep no labels beyond a test."""
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "cache"))


def arrays_for(name: str, folder: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Write images and labels that fit a set; return their source and the arrays."""
    builder = find_builder(name, None)
    shape = tuple(side or 7 + place for place, side in enumerate(builder.info.features["image"].shape))
    label = builder.info.features["label"]
    rng = np.random.default_rng(len(name))
    arrays = {}
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, *shape), np.uint8)
        arrays[f"y_{split}"] = rng.integers(0, label.num_classes, count)
    names = {"cifar10": CIFAR10, "cifar100": CIFAR100}.get(name, label.names)
    file = folder / f"{name.replace('/', '-')}.npz"
    np.savez(file, **arrays, class_names=np.array(names))
    return f"npz:{file}", {**arrays, "names": names}


@pytest.mark.parametrize("name", NAMES.split()[:12])
def test_the_catalogue(name, tmp_path):
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES.split()[12:])
def test_more_of_the_catalogue(name, tmp_path):
    if name == "stanford_dogs":
        with pytest.raises(DataError, match=r"has a feature 'objects' \(Sequence.*of every example, which npz:"):
            check(name, tmp_path)
    else:
        check(name, tmp_path)


def check(name: str, folder: Path) -> None:
    """Prepare a set from arrays, open it, and compare."""
    source, arrays = arrays_for(name, folder)
    done = prepare(name, folder / "sets", source=source)
    assert done.examples == {"train": 5, "validation": 2, "test": 3}
    assert not done.already
    found = load_dataset(done.opens_as)
    assert found.class_names == tuple(arrays["names"])
    assert dict(found.origins) == {"train": "train", "val": "validation", "test": "test"}
    for split, records in found.splits.items():
        np.testing.assert_array_equal(records.labels, arrays[f"y_{split}"])
        np.testing.assert_array_equal([records[i]["image"] for i in range(len(records))], arrays[f"x_{split}"])
    assert "tensorflow" not in sys.modules


def test_what_tfds_itself_reads_of_it(tmp_path):
    source, arrays = arrays_for("cifar100", tmp_path)
    prepare("cifar100", tmp_path, source=source)
    read = tfds.data_source("cifar100", split="test", data_dir=str(tmp_path))
    assert [example["id"] for example in read] == [b"test_00000", b"test_00001", b"test_00002"]
    np.testing.assert_array_equal([example["image"] for example in read], arrays["x_test"])
    assert [example["coarse_label"] for example in read] == [superclass(int(label)) for label in arrays["y_test"]]
    builder = find_builder("cifar100", str(tmp_path))
    assert tuple(builder.info.features["label"].names) == CIFAR100
    assert list(builder.info.features["coarse_label"].names) == list(SUPERCLASSES)
    assert load_dataset(f"tfds:cifar100@{tmp_path}").notes == (
        "features left out: coarse_label (ClassLabel), id (Text)",
    )


def test_the_superclasses_of_cifar100():
    assert len(CIFAR100) == len(set(CIFAR100)) == 100
    assert {len(names) for names in SUPERCLASSES.values()} == {5}
    assert np.bincount([superclass(fine) for fine in range(100)]).tolist() == [5] * 20


def test_image_files_are_copied_and_classes_go_by_name(make_folder, tmp_path):
    root = make_folder({f"set/{name}": 1 for name in reversed(CIFAR10)}, (32, 32)) / "set"
    source = load_dataset(f"folder:{root}").splits["all"]
    (root / "truck").rename(root / "00 truck")  # now the first
    (root / "00 truck").rename(root / "truck")
    said = []
    prepare("cifar10", tmp_path / "sets", source=f"folder:{root}", say=said.append)
    copy = load_dataset(f"tfds:cifar10@{tmp_path}/sets")
    assert copy.class_names == CIFAR10
    copied = copy.splits["all"]
    assert [encoded(copied, i) for i in range(10)] == [encoded(source, i) for i in range(10)]
    assert said == []
    names = np.array(CIFAR10[::-1])
    images = np.zeros((10, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "other.npz", x=images, y=np.arange(10), class_names=names)
    prepare("cifar10", tmp_path / "again", source=f"npz:{tmp_path}/other.npz", say=said.append)
    assert load_dataset(f"tfds:cifar10@{tmp_path}/again").splits["all"].labels.tolist() == list(range(10))[::-1]
    assert said == ["classes matched by name: their order is another one in cifar10, whose order is used"]


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("cifar10", {"x": np.zeros((2, 30, 32, 3), np.uint8)}, r"is 30 x 32 x 3; images of tfds:cifar10 are 32 x 32"),
        (
            "cifar10",
            {"x": np.zeros((2, 32, 32, 3), np.float32)},
            r"is float32 \(32, 32, 3\); tfds:cifar10 has images of",
        ),
        ("mnist", {"x": np.zeros((2, 28, 28, 5), np.uint16)}, "images have 5 channels and 1 are wanted"),
        ("cifar10", {"class_names": np.array(["cat", "cow"])}, "TFDS's cifar10 has no class 'cow'"),
        ("mnist", {"y": np.array([3, 12])}, "12 cannot be matched by number"),
        ("oxford_iiit_pet", {}, r"has a feature '.*' \(.*\) of every example, which npz:"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path, name, arrays, message):
    shape = (2, 28, 28) if name == "mnist" else (2, 32, 32, 3)
    names = {"class_names": np.array(["cat", "dog"])} if name == "cifar10" else {}
    if name == "oxford_iiit_pet":
        names = {"class_names": np.array(find_builder(name, None).info.features["label"].names)}
    np.savez(tmp_path / "a.npz", **{"x": np.zeros(shape, np.uint8), "y": np.array([0, 1]), **names, **arrays})
    with pytest.raises((DataError, UsageError), match=message):
        prepare(name, tmp_path / "sets", source=f"npz:{tmp_path}/a.npz")
    assert not list((tmp_path / "sets").rglob("*.array_record*"))


def test_other_labels_and_other_sets_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 32, 32, 3), np.uint8), y=np.array([0.5, 1.5]))
    with pytest.raises(UsageError, match="has labels of kind 'value'; tfds:cifar10 has one class an image"):
        prepare("cifar10", tmp_path / "sets", source=f"npz:{tmp_path}/a.npz")
    for name, message in {
        "voc/2007": r"need one ClassLabel feature, found none \(features: image: Image, image/filename: Text",
        "scene_parse150": r"labelled by 'annotation', an image with the class of every pixel \(segmentation\)",
        "imagenet2012_real": r"labelled by 'real_label', several classes an example",
        "celeb_a": "need one ClassLabel feature, found none",
    }.items():
        with pytest.raises(DataError, match=message):
            prepare(name, tmp_path / "sets", source="digits")
    with pytest.raises(
        DataError, match=r"tfds:coco: the code of this set needs TensorFlow, which is not installed; pip"
    ):
        prepare("coco", tmp_path / "sets", source="digits")


# ---- downloaded ------------------------------------------------------------------------------------------------------


class Downloads:
    """Stands for TFDS's download manager: gives what lies in a folder, by the last part of the address."""

    downloaded_size = 0

    def __init__(self, folder: Path):
        self.folder, self.asked = folder, []

    def download_and_extract(self, urls):
        if isinstance(urls, dict):
            return {key: self.download_and_extract(url) for key, url in urls.items()}
        self.asked.append(urls)
        return str(self.folder / urls.rpartition("/")[2].removesuffix(".gz").removesuffix(".tar"))


@pytest.fixture
def downloads(tmp_path, monkeypatch) -> Downloads:
    found = Downloads(tmp_path / "server")
    found.folder.mkdir()
    monkeypatch.setattr(tfds.core.DatasetBuilder, "_make_download_manager", lambda self, **_: found)
    return found


def test_mnist_by_its_own_code_without_tensorflow(tmp_path, downloads, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8)
    labels = (np.arange(12) % 10).astype(np.uint8)
    for part, rows in (("train", slice(0, 8)), ("t10k", slice(8, 12))):
        count = len(labels[rows])
        header = struct.pack(">4i", 2051, count, 28, 28)
        (downloads.folder / f"{part}-images-idx3-ubyte").write_bytes(header + images[rows].tobytes())
        header = struct.pack(">2i", 2049, count)
        (downloads.folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels[rows].tobytes())
    module = sys.modules[type(find_builder("mnist", None)).__module__]
    monkeypatch.setattr(module, "_TRAIN_EXAMPLES", 8)
    monkeypatch.setattr(module, "_TEST_EXAMPLES", 4)
    said = []
    done = prepare("mnist", tmp_path / "sets", say=said.append)
    assert (done.examples, done.already) == ({"train": 8, "test": 4}, False)
    assert said[0].startswith(f"mnist: at most 11.6 MB are downloaded to {tmp_path}/sets/downloads, and prepared in ")
    assert len(downloads.asked) == 4
    found = load_dataset(done.opens_as)
    seen = {
        split: {records[i]["image"].tobytes() for i in range(len(records))} for split, records in found.splits.items()
    }
    assert seen["train"] == {image.tobytes() for image in images[:8]}
    assert seen["test"] == {image.tobytes() for image in images[8:]}
    assert "tensorflow" not in sys.modules
    same = prepare("mnist", tmp_path / "more", source=f"mnist:{downloads.folder}")
    train = load_dataset(same.opens_as).splits["train"]
    np.testing.assert_array_equal([train[i]["image"][..., 0] for i in range(8)], images[:8])
    np.testing.assert_array_equal(train.labels, labels[:8])
    again = prepare("mnist", tmp_path / "sets", say=said.append)
    assert (again.already, again.examples, len(said)) == (True, done.examples, 1)


def test_cifar10_by_its_own_code_without_tensorflow(tmp_path, downloads):
    folder = downloads.folder / "cifar-10-binary" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10) + "\n")
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        rows = rng.integers(0, 256, (2, 3073), np.uint8)
        rows[:, 0] = rng.integers(0, 10, 2)
        (folder / name).write_bytes(rows.tobytes())
    done = prepare("cifar10", tmp_path / "sets")
    found = load_dataset(done.opens_as)
    assert found.class_names == CIFAR10
    assert done.examples == {"train": 10, "test": 2}
    rows = np.fromfile(folder / "test_batch.bin", np.uint8).reshape(2, 3073)
    expected = {(row[0], row[1:].reshape(3, 32, 32).transpose(1, 2, 0).tobytes()) for row in rows}
    again = prepare("cifar10", tmp_path / "more", source=f"cifar:{downloads.folder}/cifar-10-binary")
    for way in (found, load_dataset(again.opens_as)):
        test = way.splits["test"]
        assert {(test.labels[i], test[i]["image"].tobytes()) for i in range(2)} == expected
        assert (way.class_names, len(way.splits["train"])) == (CIFAR10, 10)


def encoded(records: Source, index: int) -> bytes:
    found = encoder_of(records)
    assert found is not None
    return found[0](index)


def jpeg(level: int) -> bytes:
    return cv2.imencode(".jpg", np.full((20, 30, 3), level, np.uint8))[1].tobytes()


def tar_of(path: Path, files: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def test_imagenet_from_its_tar_files_without_tensorflow(tmp_path):
    """One of the images is called as one that TFDS writes anew, for it is in CMYK."""
    manual = tmp_path / "sets" / "downloads" / "manual"
    manual.mkdir(parents=True)
    first = tar_of(tmp_path / "a", {"n01739381_1309.JPEG": jpeg(10), "n01739381_2.JPEG": jpeg(20)})
    second = tar_of(tmp_path / "b", {"n01440764_5.JPEG": jpeg(30)})
    tar_of(manual / "ILSVRC2012_img_train.tar", {"n01739381.tar": first, "n01440764.tar": second})
    tar_of(manual / "ILSVRC2012_img_val.tar", {f"ILSVRC2012_val_0000000{n}.JPEG": jpeg(40 + n) for n in (1, 2)})
    tar_of(manual / "ILSVRC2012_img_test.tar", {"ILSVRC2012_test_00000001.JPEG": jpeg(50)})
    done = prepare("imagenet2012", tmp_path / "sets")
    assert done.examples == {"train": 3, "validation": 2, "test": 1}
    found = load_dataset(done.opens_as)
    assert (len(found.class_names), found.class_names[0], list(found.splits)) == (1000, "n01440764", ["train", "val"])
    assert found.notes[0] == "splits left out, with their images: test (1, not labelled)"
    train = found.splits["train"]
    levels = {int(train[i]["image"][0, 0, 0]): found.class_names[train.labels[i]] for i in range(3)}
    assert levels == {10: "n01739381", 20: "n01739381", 30: "n01440764"}
    copied = {encoded(train, i) for i in range(3)}
    assert {jpeg(20), jpeg(30)} < copied
    assert "tensorflow" not in sys.modules
    assert utils.png_to_jpeg.__module__.startswith("tensorflow_datasets")  # what was lent is given back


def test_imagenette_by_its_own_code_without_tensorflow(tmp_path, downloads):
    for place, name in enumerate(("n01440764", "n02102040")):
        for split in ("train", "val"):
            folder = downloads.folder / "imagenette2-160.tgz" / "imagenette2-160" / split / name
            folder.mkdir(parents=True)
            (folder / f"{name}_{split}.JPEG").write_bytes(jpeg(10 * place))
    done = prepare("imagenette/160px-v2", tmp_path / "sets")
    assert done.examples == {"train": 2, "validation": 2}
    found = load_dataset(done.opens_as)
    for records in found.splits.values():
        assert {(records[i]["image"].max(), found.class_names[records.labels[i]]) for i in range(2)} == {
            (0, "n01440764"),
            (10, "n02102040"),
        }


class Own(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set of somebody's own, whose code may ask for anything."""

    VERSION = tfds.core.Version("1.0.0")
    ASKS = staticmethod(lambda: None)

    def _info(self):
        features = {"image": tfds.features.Image(shape=(4, 4, 3)), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        self.ASKS()
        for i in range(4):
            yield i, {"image": np.full((4, 4, 3), i, np.uint8), "label": i % 2}


def own_builder(monkeypatch, asks) -> None:
    own = type("Own", (Own,), {"ASKS": staticmethod(asks), "__module__": __name__}, skip_registration=True)
    monkeypatch.setattr(prepare_module, "find_builder", lambda name, data_dir: own(data_dir=data_dir))


def test_arrays_are_encoded_without_tensorflow(tmp_path, monkeypatch):
    own_builder(monkeypatch, lambda: None)
    done = prepare("own", tmp_path)
    records = load_dataset(f"tfds:own@{tmp_path}").splits["all"]
    assert done.examples == {"train": 4}
    assert sorted(int(records[i]["image"].max()) for i in range(4)) == [0, 1, 2, 3]


def test_code_that_needs_tensorflow_says_what_to_install(tmp_path, monkeypatch):
    from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow as tf

    own_builder(monkeypatch, lambda: tf.image.decode_jpeg(b""))
    with pytest.raises(DataError) as error:
        prepare("own", tmp_path)
    assert str(error.value) == (
        f"tfds:own: the code of this set needs TensorFlow, which is not installed: {install('tf')}, then "
        f"again\n  resnet-jax data prepare own --data-dir {tmp_path}\nDownloads are kept in {tmp_path}/downloads"
        "; reading the set needs no TensorFlow"
    )
    assert not list(tmp_path.rglob("incomplete*"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/x/y"), "cannot be prepared: /x/y: No space left on device"),
        (AssertionError("no\x1b[31m way"), r"cannot be prepared \(AssertionError: no way\)"),
        (type("DownloadError", (Exception,), {})("404"), r"cannot be downloaded \(DownloadError: 404\)"),
    ],
)
def test_other_failures_are_a_sentence(tmp_path, monkeypatch, error, said):
    def fail():
        raise error

    own_builder(monkeypatch, fail)
    with pytest.raises(DataError, match=said):
        prepare("own", tmp_path)


def test_a_server_that_cannot_be_reached(tmp_path, monkeypatch):
    import requests

    def fail(*_, **__):
        raise requests.exceptions.ConnectionError("Max retries exceeded")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "_make_download_manager", fail)
    with pytest.raises(DataError, match=r"tfds:cifar10 cannot be downloaded: Max retries exceeded\. Files that"):
        prepare("cifar10", tmp_path)


def test_imagenet_says_its_manual_step(tmp_path):
    with pytest.raises(DataError) as error:
        prepare("imagenet2012", tmp_path / "sets")
    said = str(error.value)
    assert f"Put its files into {tmp_path}/sets/downloads/manual (manual_dir), as they are, and run this" in said
    assert "ILSVRC2012_img_train.tar" in said
    assert "ILSVRC2012_img_val.tar" in said
    assert "https://image-net.org/download-images" in said


def test_too_little_space_is_said_before_anything_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
    with pytest.raises(DataError, match=r"tfds:cifar10 takes about 0\.3 GB .* and 0\.1 GB are free in"):
        prepare("cifar10", tmp_path)


def test_half_prepared_and_another_format(tmp_path, monkeypatch):
    own_builder(monkeypatch, lambda: None)
    left = tmp_path / "own" / "incomplete.ABCDEF_1.0.0"
    left.mkdir(parents=True)
    (left / "own-train.array_record-00000-of-00001").write_bytes(b"half")
    said = []
    prepare("own", tmp_path, say=said.append)
    assert said[0].startswith(f"{left} is left over from an interrupted preparation; it is not used")
    info = tmp_path / "own" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match=r"own/1\.0\.0 is prepared in the format tfrecord, which cannot be read"):
        prepare("own", tmp_path)


def test_reading_a_set_that_is_half_prepared_says_so(tmp_path):
    left = tmp_path / "mnist" / "incomplete.ABCDEF_3.0.1"
    left.mkdir(parents=True)
    with pytest.raises(DataError, match=rf"(?s)not prepared in .*\(a preparation was interrupted: {left} can"):
        load_dataset(f"tfds:mnist@{tmp_path}")


def test_a_record_that_is_no_example_and_a_file_cut_in_half(make_folder, tmp_path):
    root = make_folder({"set/0": 40, "set/1": 40}, (28, 28)) / "set"
    prepare("mnist", tmp_path, source=f"folder:{root}")
    (file,) = (tmp_path / "mnist" / "3.0.1").glob("*.array_record*")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=rf"{file}: these .* bytes are no whole ArrayRecord file"):
        load_dataset(f"tfds:mnist@{tmp_path}")
    file.unlink()
    with pytest.raises(DataError, match=r"cannot read it \(No such file"):
        load_dataset(f"tfds:mnist@{tmp_path}")
    with pytest.raises(DataError, match="here: this is no example as TFDS writes them"):
        _parse(b"\xff\xff", ("image",), "here")
    with pytest.raises(DataError, match=r"here: the example has no feature 'image', but $"):
        _parse(b"", ("image",), "here")
    assert len(PreparedExamples((), ("image",))) == 0


def test_a_photograph_on_its_side(tmp_path, make_folder):
    jpeg = cv2.imencode(".jpg", np.zeros((4, 6, 3), np.uint8))[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    for name in ("dandelion", "daisy"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.jpg").write_bytes(jpeg[:2] + b"\xff\xe1\0\x22" + exif + jpeg[2:])
    prepare("tf_flowers", tmp_path, source=f"folder:{tmp_path}/photos")
    spec = f"tfds:tf_flowers@{tmp_path}"
    shapes = [load_dataset(spec, orientation=how).splits["all"][0]["image"].shape for how in ("stored", "exif")]
    assert shapes == [(4, 6, 3), (6, 4, 3)]
    assert load_dataset(spec, pixels="stored").splits["all"].spec["image"].shape == (None, None, 3)


def test_no_output_of_tfds_reaches_standard_output(tmp_path, monkeypatch, capsys):
    own_builder(monkeypatch, lambda: print("Downloading ..."))
    prepare("own", tmp_path)
    assert capsys.readouterr().out == ""
