"""Archives of real data, unpacked once a session; images that are written in a line."""

from __future__ import annotations

import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest


def write_image(path: Path, image: np.ndarray) -> Path:
    """Write an image, RGB or grey, in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    swapped = image[..., ::-1] if image.ndim == 3 and image.shape[-1] == 3 else image
    path.write_bytes(cv2.imencode(path.suffix, swapped)[1].tobytes())
    return path


def noise(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    """Return an RGB image of noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="session")
def unpacked(shared_data: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a function that unpacks an archive of the real data, once."""
    folders: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("real")
            with tarfile.open(next(shared_data.glob(f"{name}.tar*"))) as archive:
                archive.extractall(folders[name], filter="data")
        return folders[name]

    return unpack


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """Counts of masks are kept beside the test."""
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
