"""Classes of pixels as image files: the classes themselves, and the image in their colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnet_jax.errors import RunError
from resnet_jax.report.example_axes import as_colours, colour_of


class PixelFiles:
    """A folder with two PNG files for each image: ``NAME.png``, values are classes, and ``NAME_overlay.png``.

    Args:
        folder: is made if it is not there.

    Raises:
        RunError: it cannot be made.
    """

    def __init__(self, folder: Path):
        self.folder, self._used = folder, set[str]()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make {folder}: {error.strerror or error}") from error

    def add(self, name: str, classes: np.ndarray, image: np.ndarray) -> None:
        """Write both files of an image; of several images of one name the later ones get a number.

        Args:
            name: of the image, maybe a path.
            classes: uint8 (H, W).
            image: uint8 (H, W, C).

        Raises:
            RunError: a file cannot be written.
        """
        stem = Path(name).stem or "image"
        number = next(n for n in range(1, len(self._used) + 2) if (stem if n == 1 else f"{stem}-{n}") not in self._used)
        stem = stem if number == 1 else f"{stem}-{number}"
        self._used.add(stem)
        self._write(f"{stem}.png", classes)
        self._write(f"{stem}_overlay.png", overlay(image, classes)[..., ::-1])

    def _write(self, name: str, pixels: np.ndarray) -> None:
        import cv2

        path = self.folder / name
        try:
            path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes())
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def overlay(image: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return an image, uint8 (H, W, C), half in the colours of the classes (H, W); 255 is left as it is."""
    from matplotlib.colors import to_rgb

    colours = as_colours(image, 0.0, 255.0)
    for number in np.unique(classes).tolist():
        if number != 255:
            where = classes == number
            colours[where] = 0.45 * colours[where] + 0.55 * np.array(to_rgb(colour_of(number)))
    return np.rint(colours * 255).astype(np.uint8)
