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
    assert load_dataset(f"npz:{tmp_path}/a.npz").splits["all"].image(1).shape == (4, 4, 1)


def test_channels_are_passed_on(make_folder, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.array([0, 1]))
    root = make_folder({"pictures/cat": 1, "pictures/dog": 1}) / "pictures"
    for spec in ("digits", f"folder:{root}", f"npz:{tmp_path}/a.npz"):
        for channels in (1, 3):
            assert load_dataset(spec, channels=channels).splits["all"].image(0).shape[-1] == channels
    with pytest.raises(UsageError, match="channels=2"):
        load_dataset("digits", channels=2)


def test_unknown_kind_names_the_nearest():
    with pytest.raises(UsageError, match="unknown data source 'fodler'; did you mean 'folder'"):
        load_dataset("fodler:/data")


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
