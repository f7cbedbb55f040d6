"""Small image folders on disk, pixel-exact (PNG), and the pixels that are in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest


class FolderFactory:
    """Writes random images and remembers them by their file."""

    def __init__(self, root: Path) -> None:
        self.root, self.pixels, self.rng = root, {}, np.random.default_rng(0)

    def __call__(self, counts: Mapping[str, int], size: tuple[int, int] = (6, 5)) -> Path:
        """Write ``counts[folder]`` images into ``root/folder``."""
        for folder, count in counts.items():
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                path = self.root / folder / f"{i:03}.png"
                self.pixels[str(path)] = self.rng.integers(0, 256, (*size, 3), np.uint8)
                path.write_bytes(cv2.imencode(".png", self.pixels[str(path)][..., ::-1])[1].tobytes())
        return self.root


@pytest.fixture
def make_folder(tmp_path: Path) -> FolderFactory:
    return FolderFactory(tmp_path)
