from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from resnet_jax.data.source import load_dataset
from resnet_jax.errors import UsageError


def test_each_kind_reaches_its_module(make_folder, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.array([0, 1]))
    root = make_folder({"pictures/cat": 1, "pictures/dog": 1}) / "pictures"
    assert load_dataset("digits").name == "digits"
    assert load_dataset(f"folder:{root}").class_names == ("cat", "dog")
    assert load_dataset(f"npz:{tmp_path}/a.npz").splits["all"][1]["image"].shape == (4, 4, 1)


def test_channels_are_passed_on(make_folder, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.array([0, 1]))
    root = make_folder({"pictures/cat": 1, "pictures/dog": 1}) / "pictures"
    for spec in ("digits", f"folder:{root}", f"npz:{tmp_path}/a.npz"):
        for channels in (1, 3):
            assert load_dataset(spec, channels=channels).splits["all"][0]["image"].shape[-1] == channels
    with pytest.raises(UsageError, match="channels=2"):
        load_dataset("digits", channels=2)


def test_unknown_kind_names_the_nearest():
    with pytest.raises(UsageError, match="unknown data source 'fodler'; did you mean 'folder'"):
        load_dataset("fodler:/data")


def test_a_path_alone_is_described_with_what_to_type(make_folder, tmp_path):
    root = make_folder(
        {"set/cat": 2, "set/dog": 1, "parts/train/a": 1, "parts/train/b": 1, "parts/Test/a": 1, "parts/Test/b": 1}
    )
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.array([0, 1]))
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "table.csv").write_text("file,label\n1.png,cat\n")
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(30))
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "data.json"):
        (tmp_path / "run" / name).touch()
    (tmp_path / "empty").mkdir()
    for given, said in {
        "set": r"a folder with 2 class folders \(cat, dog\) and 3 images: write folder:.*set",
        "parts": r"a folder with 2 class folders \(a, b\) in train, Test and 4 images: write folder:.*parts",
        "a.npz": r"an \.npz file of arrays: write npz:.*a\.npz",
        "a.npy": r"one NumPy array \(\.npy\): it has no labels",
        "table.csv": r"a table \(CSV\): if it lists files under path, and label, labels or value, write manifest:PATH",
        "x.h5": "an HDF5 file: open it with h5py",
        "set/cat/000.png": "a PNG image; a data set is a folder .* resnet-jax predict RUN_DIR",
        "run": "a run directory, not a data set",
        "empty": "a folder, but not one of images by class: .*no class folders in it",
        "": r"a folder with a\.npz: write npz:",
    }.items():
        with pytest.raises(UsageError, match=f"has no kind before the path; it is {said}"):
            load_dataset(str(root / given))
    with pytest.raises(
        UsageError, match=r"gone': there is no such file or folder, and no kind before it; write digits, "
    ):
        load_dataset(str(tmp_path / "gone"))
    with pytest.raises(UsageError, match="nothing is downloaded; fetch it first"):
        load_dataset("https://example.org/x.zip")


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        ("folder", "folder:PATH"),
        ("npz:", "npz:PATH"),
        ("tfds:", "tfds:NAME"),
        ("digits:", "digits"),
        ("digits:8", "digits"),
    ],
)
def test_incomplete_spec(spec, form):
    with pytest.raises(UsageError, match=f"data source '{spec}' is not complete; write {form}"):
        load_dataset(spec)


def test_importing_the_floor_imports_no_heavy_library():
    heavy = "{'cv2', 'sklearn', 'grain', 'tensorflow_datasets', 'jax', 'matplotlib'}"
    code = f"import sys, resnet_jax.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
