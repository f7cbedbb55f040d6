"""Records seen through a geometry: every image has one shape, or the error says which one has not."""

from __future__ import annotations

import numpy as np

from resnet_jax.data.records import Records, gather, in_memory
from resnet_jax.data.rng import CROP, generator
from resnet_jax.data.transform import Geometry
from resnet_jax.errors import DataError


class View:
    """Images ready to be stacked; the first image, through the geometry, decides the shape.

    Attributes:
        shape: (height, width, channels) of every image.
        stored: whether the records hold exactly these images in memory, so that nothing is done an image.
    """

    def __init__(self, records: Records, geometry: Geometry, *, training: bool, seed: int = 0) -> None:
        self.records, self.geometry, self.training, self.seed = records, geometry, training, seed
        first = records.image(0)
        size = geometry.image_size
        self.shape = (*(first.shape[:2] if size is None else (size, size)), first.shape[2])
        self.stored = in_memory(records) and geometry.keeps(first.shape, training=training)

    def image(self, index: int, epoch: int = 0) -> np.ndarray:
        """Return image ``index``; its random part depends on (seed, epoch, index) alone.

        Raises:
            DataError: unreadable, or of another shape than the first image.
        """
        image = self.records.image(index)
        if self.training and self.geometry.random:
            image = self.geometry.train_image(image, generator(self.seed, CROP, epoch, index))
        else:
            image = self.geometry.eval_image(image)
        if image.shape != self.shape:
            advice = "set image_size to bring all images to one size (--data.image-size)"
            if image.shape[:2] == self.shape[:2]:
                advice = "all images need the same number of channels"
            raise DataError(
                f"{self.records.describe(index)} is {_size(image.shape)} but {self.records.describe(0)} is "
                f"{_size(self.shape)} (height x width x channels); {advice}"
            )
        return image

    def images(self, indices: np.ndarray, epoch: int = 0) -> np.ndarray:
        """Return the images at ``indices``, uint8 (len(indices), height, width, channels)."""
        if self.stored and (images := gather(self.records, indices)) is not None:
            return images
        images = np.empty((len(indices), *self.shape), np.uint8)
        for row, index in enumerate(indices):
            images[row] = self.image(int(index), epoch)
        return images


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)
