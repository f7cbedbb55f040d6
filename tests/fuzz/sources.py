"""Sources of data."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import tempfile
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.packing import IMAGE, RNG, encoded, entries, npy, png_part, zipped
from tests.fuzz.reader import Reader, Wrap


def _source(spec: str, **wanted: Any) -> Callable[[Path], Any]:
    """Open a source and read the first and last examples of its splits."""

    def read(root: Path) -> None:
        from resnet_jax.data.source import load_dataset

        dataset = load_dataset(spec.format(root=root), **wanted)
        for records in dataset.splits.values():
            for index in {0, len(records) - 1}:
                if len(records):
                    records[index]
                    records.describe(index)

    return read


def _wav() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(RNG.integers(-99, 99, 200, np.int16).tobytes())
    return buffer.getvalue()


def _flac() -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, RNG.normal(0, 0.1, 300).astype(np.float32), 8000, format="FLAC")
    return buffer.getvalue()


def _nifti(array: np.ndarray) -> bytes:
    import nibabel

    library: Any = nibabel
    return library.Nifti1Image(array, np.eye(4)).to_bytes()


def _cifar() -> dict[str, bytes]:
    """Return the files of a tiny CIFAR-100 for Python, as protocol 2 writes them."""

    def table(count: int) -> bytes:
        rows = {
            "data": RNG.integers(0, 256, (count, 3072), np.uint8),
            "fine_labels": [n % 100 for n in range(count)],
            "coarse_labels": [n % 20 for n in range(count)],
        }
        return pickle.dumps(rows, protocol=2)

    names = {"fine_label_names": [f"f{n}" for n in range(100)], "coarse_label_names": [f"c{n}" for n in range(20)]}
    return {"train": table(3), "test": table(2), "meta": pickle.dumps(names, protocol=2)}


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as file:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _record_set() -> bytes:
    from resnet_jax.data.convert import convert

    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "a.npz", x=RNG.integers(0, 256, (4, 6, 6, 3), np.uint8), y=[0, 1, 0, 1])
        convert(f"npz:{folder}/a.npz", Path(folder) / "a.array_record")
        return (Path(folder) / "a.array_record").read_bytes()


def _header_parts() -> tuple[tuple[bytes, Wrap], ...]:
    """Return the header of a record file, put into a file that is sealed again."""
    from resnet_jax.data.record_file import RecordFile, writing

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(_record_set())
        file = RecordFile(path)
        records = [file[number] for number in range(len(file))]
        file.close()

    def sealed(changed: bytes, place: int) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            with writing(Path(folder) / "a", compress=False) as append:
                for number, record in enumerate(records):
                    append(changed if number == place else record)
            return (Path(folder) / "a").read_bytes()

    return tuple((records[n], lambda changed, n=n: sealed(changed, n)) for n in (0, len(records) - 2, len(records) - 1))


def sources() -> list[Reader]:
    x, y = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8), np.arange(6) % 2
    arrays = {"x.npy": npy(x), "y.npy": npy(y), "class_names.npy": npy(np.array(["a", "b"]))}
    unnamed = {"x.npy": npy(x), "y.npy": npy(y)}
    png = encoded(".png")
    idx = {
        f"{split}-{what}-idx{sides}-ubyte": struct.pack(f">HBB{sides}I", 0, 8, sides, *shape)
        + bytes(n % 2 for n in range(int(np.prod(shape))))
        for split, count in (("train", 4), ("t10k", 3))
        for what, sides, shape in (("images", 3, (count, 5, 5)), ("labels", 1, (count,)))
    }
    annotation = (
        b"<annotation><size><width>10</width><height>12</height><depth>3</depth></size><object><name>cat</name>"
        b"<difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>7</xmax><ymax>9</ymax></bndbox></object>"
        b"</annotation>"
    )
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "height": 12, "width": 10}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": 0, "area": 12}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}],
    }
    table = b"path,label,split,group\na.png,cat,train,p1\nb.png,dog,test,p2\na.png,dog,train,p1\nb.png,cat,test,p2\n"
    lines = b'{"path": "a.png", "labels": ["cat", "dog"]}\n{"path": "b.png", "labels": []}\n'
    series = (
        b"@problemName a\n@timeStamps false\n@univariate true\n@equalLength true\n@classLabel true 1 2\n@data\n"
        b"1.0,2.0,3.5:1\n0.5,-1.0,2.0:2\n"
    )
    cifar = _cifar()
    cifar_parts = tuple(
        (content, lambda changed, name=name: _tar({**cifar, name: changed})) for name, content in cifar.items()
    )
    volume = RNG.normal(size=(4, 5, 6)).astype(np.float32)
    nifti = _nifti(volume)
    pictures = {"a.png": png, "b.png": encoded(".png", IMAGE[::-1].copy())}
    record = _record_set()
    return [
        Reader("npz", {"a.npz": zipped(arrays)}, _source("npz:{root}/a.npz"), inner={"a.npz": entries(arrays)}),
        Reader(
            "npz stored",
            {"a.npz": zipped(unnamed, 0)},
            _source("npz:{root}/a.npz"),
            inner={"a.npz": entries(unnamed, 0)},
        ),
        Reader("npy", unnamed, _source("npy:{root}")),
        Reader(
            "folder",
            {"a/1.png": png, "a/2.png": png, "b/1.jpg": encoded(".jpg"), "b/2.npy": npy(IMAGE)},
            _source("folder:{root}"),
        ),
        Reader("manifest csv", {"t.csv": table, **pictures}, _source("manifest:{root}/t.csv"), ("t.csv",), text=True),
        Reader(
            "manifest jsonl",
            {"t.jsonl": lines, **pictures},
            _source("manifest:{root}/t.jsonl"),
            ("t.jsonl",),
            text=True,
        ),
        Reader(
            "coco",
            {"c.json": json.dumps(coco).encode(), "a.png": png},
            _source("coco:{root}/c.json"),
            ("c.json",),
            text=True,
        ),
        Reader(
            "voc",
            {
                "Annotations/a.xml": annotation,
                "Annotations/b.xml": annotation.replace(b"cat", b"dog"),
                "JPEGImages/a.png": png,
                "JPEGImages/b.png": png,
                "ImageSets/Main/train.txt": b"a\n",
                "ImageSets/Main/test.txt": b"b\n",
            },
            _source("voc:{root}"),
            ("Annotations/a.xml", "ImageSets/Main/train.txt"),
            text=True,
        ),
        Reader(
            "ucr ts", {"A_TRAIN.ts": series, "A_TEST.ts": series}, _source("ucr:{root}"), ("A_TRAIN.ts",), text=True
        ),
        Reader("ucr tsv", {"a.tsv": b"1\t0.5\t2\n2\t1\t3\n1\t2\t2\n"}, _source("ucr:{root}/a.tsv"), text=True),
        Reader("wav", {f"{c}/{n}.wav": _wav() for c in "ab" for n in "12"}, _source("wav:{root}"), ("a/1.wav",)),
        Reader("flac", {f"{c}/{n}.flac": _flac() for c in "ab" for n in "12"}, _source("wav:{root}"), ("a/1.flac",)),
        Reader(
            "volumes npy",
            {f"{c}/{n}.npy": npy(volume) for c in "ab" for n in "12"},
            _source("volumes:{root}"),
            ("a/1.npy",),
        ),
        Reader(
            "volumes nifti",
            {f"{c}/{n}.nii": nifti for c in "ab" for n in "12"},
            _source("volumes:{root}"),
            ("a/1.nii",),
        ),
        Reader(
            "volumes nifti gz",
            {f"{c}/{n}.nii.gz": gzip.compress(nifti) for c in "ab" for n in "12"},
            _source("volumes:{root}"),
            ("a/1.nii.gz",),
            inner={"a/1.nii.gz": ((nifti, gzip.compress),)},
        ),
        Reader(
            "masks",
            {
                **{f"images/{n}.png": png for n in "abcd"},
                **{f"masks/{n}.png": encoded(".png", IMAGE[..., 0] % 3) for n in "abcd"},
            },
            _source("masks:{root}"),
            ("masks/a.png",),
            inner={"masks/a.png": png_part(encoded(".png", IMAGE[..., 0] % 3))},
        ),
        Reader("mnist", idx, _source("mnist:{root}")),
        Reader(
            "mnist gz",
            {f"{name}.gz": gzip.compress(data) for name, data in idx.items()},
            _source("mnist:{root}"),
            inner={f"{name}.gz": ((data, gzip.compress),) for name, data in idx.items()},
        ),
        Reader(
            "cifar pickles", {f"cifar-100-python/{name}": data for name, data in cifar.items()}, _source("cifar:{root}")
        ),
        Reader(
            "cifar tar", {"c.tar.gz": _tar(cifar)}, _source("cifar:{root}/c.tar.gz"), inner={"c.tar.gz": cifar_parts}
        ),
        Reader(
            "array_record",
            {"a.array_record": record},
            _source("array_record:{root}/a.array_record"),
            inner={"a.array_record": _header_parts()},
        ),
    ]
