"""Volumes: NumPy and NIfTI files by class, MedMNIST's archive, axes, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resnet_jax.data import load_dataset
from resnet_jax.data.kinds.volume_file import read_volume
from resnet_jax.errors import DataError


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, volume=values)
    else:
        np.save(path, values)
    return path


def volume(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (4, 5, 6), np.uint8)


def test_class_folders_of_numpy_files(tmp_path):
    write(tmp_path / "train" / "a" / "1.npy", volume(1))
    write(tmp_path / "train" / "b" / "1.npz", volume(2))
    write(tmp_path / "val" / "a" / "1.npy", volume(3))
    write(tmp_path / "val" / "b" / "1.npy", volume(4))
    data = load_dataset(f"volumes:{tmp_path}")
    records = data.splits["train"]
    assert records.spec["image"].shape == (4, 5, 6, 1)
    assert records.spec["image"].meaning == "volume"
    np.testing.assert_array_equal(records[1]["image"][..., 0], volume(2))
    assert data.splits["val"].labels.tolist() == [0, 1]


def test_another_shape_or_type_is_named_when_it_is_read(tmp_path):
    write(tmp_path / "a" / "1.npy", volume(1))
    write(tmp_path / "b" / "1.npy", volume(2, 4, 5, 7))
    write(tmp_path / "b" / "2.npy", volume(2).astype(np.float32))
    records = load_dataset(f"volumes:{tmp_path}").splits["all"]
    with pytest.raises(DataError, match=r"b/1\.npy: uint8 \(4, 5, 7, 1\), but the first .* uint8 \(4, 5, 6, 1\)"):
        records[1]
    with pytest.raises(DataError, match=r"b/2\.npy: float32 "):
        records[2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 4)), r"float64 \(4, 4\); a volume is"),
        (np.zeros((4, 4, 4, 40)), "up to 16"),
        (np.full((2, 2, 2), np.nan), "NaN or infinite"),
        (np.full((2, 2, 2), 2**40), "do not fit int32"),
        (np.zeros((2, 2, 2), complex), "need numbers"),
        (np.zeros((0, 2, 2)), "a volume is"),
    ],
)
def test_what_is_no_volume(tmp_path, values, message):
    with pytest.raises(DataError, match=message):
        read_volume(str(write(tmp_path / "x.npy", values)))


def test_files_that_are_broken(tmp_path):
    path = write(tmp_path / "x.npy", volume(1))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"x\.npy: cannot read it as a NumPy file"):
        read_volume(str(path))
    np.savez(tmp_path / "x.npz", a=volume(1), b=volume(2))
    with pytest.raises(DataError, match=r"holds a, b; an \.npz of a volume has one array"):
        read_volume(str(tmp_path / "x.npz"))
    np.save(tmp_path / "x.npy", np.array([print], object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot read it"):
        read_volume(str(tmp_path / "x.npy"))


def test_nifti_is_turned_to_one_orientation(tmp_path):
    library = pytest.importorskip("nibabel", reason="nibabel, of the extra volumes, is not installed")
    values = volume(5, 6, 5, 4)  # x, y, z
    for name, affine, stored in (
        ("plain", np.eye(4), values),
        ("flipped", np.diag([-1.0, 1, -1, 1]), values[::-1, :, ::-1]),
        ("turned", np.eye(4)[[2, 0, 1, 3]], values.transpose(1, 2, 0)),
    ):
        path = tmp_path / f"{name}.nii.gz"
        library.save(library.Nifti1Image(np.ascontiguousarray(stored), affine), path)
        found = read_volume(str(path))
        np.testing.assert_array_equal(found[..., 0], values.transpose(2, 1, 0), err_msg=name)
        assert found.dtype == np.uint8
    scaled = library.Nifti1Image(values.astype(np.int16), np.eye(4))
    scaled.header.set_slope_inter(0.5, -3)
    library.save(scaled, tmp_path / "scaled.nii")
    assert read_volume(str(tmp_path / "scaled.nii")).dtype == np.float32
    four = library.Nifti1Image(volume(6, 6, 5, 4, 2), np.eye(4))
    library.save(four, tmp_path / "four.nii")
    assert read_volume(str(tmp_path / "four.nii")).shape == (4, 5, 6, 2)
    (tmp_path / "four.nii").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"four\.nii: cannot read it as NIfTI"):
        read_volume(str(tmp_path / "four.nii"))


def test_without_nibabel_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(DataError, match=r"pip install 'resnet-flax\[volumes\]'"):
        read_volume(str(tmp_path / "x.nii.gz"))


def test_one_file_is_that_of_npz_taken_for_volumes(tmp_path):
    np.savez(tmp_path / "x.npz", x=volume(1, 4, 6, 6, 6), y=np.arange(4) % 2)
    (tmp_path / "names.txt").write_text("healthy\nill\n")
    data = load_dataset(f"volumes:{tmp_path / 'x.npz'}", class_list=str(tmp_path / "names.txt"))
    assert data.splits["all"].spec["image"].shape == (6, 6, 6, 1)
    assert data.class_names == ("healthy", "ill")
    with pytest.raises(DataError, match=r"one file of volumes is an \.npz"):
        load_dataset(f"volumes:{tmp_path / 'names.txt'}")


def test_adrenal_glands(shared_data):
    path = shared_data / "adrenalmnist3d-train-val.npz"
    data = load_dataset(f"volumes:{path}")
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 1188, "val": 98}
    with np.load(path) as arrays:
        np.testing.assert_array_equal(data.splits["val"][97]["image"][..., 0], arrays["val_images"][97])
        assert data.splits["train"].labels.tolist() == arrays["train_labels"][:, 0].tolist()
