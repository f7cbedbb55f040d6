"""A network ready for images: read as in evaluation, computed in batches of a few sizes, each compiled once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.augment import downscaled, normalize
from resnet_jax.data.decode import decode_image, decode_stored, has_colours
from resnet_jax.errors import DataError, UsageError
from resnet_jax.models.resnet import ResNet
from resnet_jax.ops import resize_bilinear
from resnet_jax.runs.sizes import describe_sizes
from resnet_jax.runs.trained import TrainedRun, require_images
from resnet_jax.runtime.paths import user_path
from resnet_jax.runtime.plain_files import read_file
from resnet_jax.training.predict_step import make_predict_step
from resnet_jax.weights.prepare import prepare_for_inference

BUCKETS = (16,)
"""Sizes of the batches that are compiled. One for any number of images; small, so that results come soon."""

WITH_POOLED = "outputs and pooled"
"""In place of a part of the network: its outputs, and the pooled features that they are made of, by one program."""

Image = str | Path | bytes | np.ndarray | DataError
"""The path of an image file, the bytes of one, its pixels (H, W, C), uint8 or what the network takes, or why there is
none."""


class Inference:
    """A network with its preprocessing; every size of batch is compiled once in a process for the same network.

    Args:
        trained: as :func:`resnet_jax.runs.trained.load_run` gives it.
        buckets: sizes of batches, ascending. Images go in batches of the largest; those left over fill the smallest
            that holds them, padded. A server that answers single images as fast as it can takes (1, 8, 64).
        part: None for the network's outputs, or what of :meth:`resnet_jax.models.ResNet.features`; of
            :data:`WITH_POOLED` :meth:`outputs` gives a dict of both, ``outputs`` and ``pooled``.

    Raises:
        UsageError: a network whose normalization is not known; buckets that are not ascending.
    """

    def __init__(self, trained: TrainedRun, buckets: Sequence[int] = BUCKETS, part: str | None = None):
        require_images(trained)
        if not buckets or buckets[0] < 1 or list(buckets) != sorted(set(buckets)):
            raise UsageError(f"buckets must be sizes of batches, ascending and 1 or more, got {tuple(buckets)}")
        self.trained = trained
        self.buckets = tuple(buckets)
        self.part = part
        self._sizes: set[tuple[int, int]] = set()
        self._greyed = 0

    def outputs(self, images: np.ndarray) -> Any:
        """Return what the network gives, float32 (N, ...), for images (N, H, W, C) of the network's size and dtype.

        Of heads with several outputs it is a dict of such arrays.

        Raises:
            UsageError: images of another shape or dtype.
        """
        card, images = self.trained.card, np.asarray(images)
        if images.dtype != card.image_dtype or images.shape[1:] != tuple(card.image_shape):
            shape = ", ".join(str(side) for side in card.image_shape)
            raise UsageError(
                f"outputs are computed of {card.image_dtype} images (N, {shape}), got {images.dtype} {images.shape}; "
                "predict takes images of any size"
            )
        model, variables = self._prepared
        arguments = (model, card.mean, card.std, card.downscale, self.part, variables)
        if not len(images):
            empty = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
            shapes = jax.eval_shape(functools.partial(_outputs, *arguments), empty)
            return jax.tree.map(lambda each: np.zeros((0, *each.shape[1:]), np.float32), shapes)
        parts = []
        for start in range(0, len(images), self.buckets[-1]):
            part = images[start : start + self.buckets[-1]]
            batch = np.zeros(
                (next(size for size in self.buckets if size >= len(part)), *images.shape[1:]), images.dtype
            )
            batch[: len(part)] = part
            found, count = _outputs(*arguments, batch), len(part)
            parts.append(jax.tree.map(lambda each, count=count: np.asarray(each)[:count], found))
        return jax.tree.map(lambda *each: np.concatenate(each), *parts)

    @functools.cached_property
    def _prepared(self) -> tuple[ResNet, dict[str, Any]]:
        """The network and its variables: on a CPU, in float32, as :func:`.prepare_for_inference` makes them."""
        trained = self.trained
        if jax.default_backend() != "cpu" or trained.model.config.dtype != "float32":
            return trained.model, trained.variables
        return prepare_for_inference(trained.model, trained.variables, trained.card.image_shape)

    def each(
        self, images: Iterable[Image], compute: Callable[[np.ndarray], Any] | None = None
    ) -> Iterator[tuple[str, Any | DataError]]:
        """Yield name and result of every image; :meth:`each_with_sides`."""
        return ((name, found) for name, _, found in self.each_with_sides(images, compute))

    def each_with_sides(
        self, images: Iterable[Image], compute: Callable[[np.ndarray], Any] | None = None
    ) -> Iterator[tuple[str, tuple[int, int], Any | DataError]]:
        """Yield name, height and width as stored, and result of every image, in order, a batch at a time.

        One that cannot be read has the sides (0, 0), and why not in place of a result.

        Args:
            images: any number; bytes and pixels are named by their position, counted from 0.
            compute: what is computed of images (N, H, W, C), a row for each (default: :meth:`outputs`).
        """
        numbered = enumerate(images)
        compute = self.outputs if compute is None else compute
        while batch := list(islice(numbered, self.buckets[-1])):
            names = [str(image) if isinstance(image, str | Path) else str(index) for index, image in batch]
            read = [self.read_with_sides(image, name) for name, (_, image) in zip(names, batch, strict=True)]
            pixels = [image for image, _ in read if not isinstance(image, DataError)]
            found = compute(np.stack(pixels)) if pixels else None
            rows = (jax.tree.map(lambda each, row=row: each[row], found) for row in range(len(pixels)))
            for name, (image, sides) in zip(names, read, strict=True):
                yield name, sides, image if isinstance(image, DataError) else next(rows)

    def said(self) -> tuple[str, ...]:
        """Say what was done to the images read so far, as evaluation does: other sizes, colours turned to grey."""
        sizes = describe_sizes(self.trained, self._sizes)
        if not self._greyed:
            return sizes
        images = "1 image" if self._greyed == 1 else f"{self._greyed:,} images"
        return (*sizes, f"{images} in colours turned to grey: the network takes 1 channel")

    def read(self, image: Image, name: str) -> np.ndarray | DataError:
        """Return an image as the network takes it, (H, W, C), or why it cannot be read.

        Args:
            image: see :data:`Image`.
            name: what to call it in messages.
        """
        return self.read_with_sides(image, name)[0]

    def read_with_sides(self, image: Image, name: str) -> tuple[np.ndarray | DataError, tuple[int, int]]:
        """Return what :meth:`read` does, and height and width of the image as it is stored."""
        (height, width, channels), dtype = self.trained.card.image_shape, self.trained.card.image_dtype
        try:
            if isinstance(image, DataError):
                return image, (0, 0)
            if isinstance(image, np.ndarray):
                stored, colours = _checked(image, channels, dtype, name), False
            else:
                where = str(user_path(image)) if isinstance(image, str | Path) else f"image {name}"
                data = image if isinstance(image, bytes) else _read_bytes(Path(where))
                orientation = self.trained.config.data.orientation
                if self.trained.config.data.pixels == "stored":
                    stored, colours = (
                        _checked(decode_stored(data, 0, where, orientation), channels, dtype, where),
                        False,
                    )
                else:
                    stored = decode_image(data, channels, where, orientation)
                    colours = channels == 1 and has_colours(decode_image(data, 3, where))
            found = self.trained.geometry.eval_image(stored)
        except DataError as error:
            return error, (0, 0)
        if found.shape[:2] != (height, width):
            wrong = DataError(
                f"{name} has {found.shape[0]}x{found.shape[1]} pixels (height x width), and {self.trained.path} takes "
                f"{height}x{width}: no rule brings images to a size that is not square"
            )
            return wrong, (0, 0)
        self._greyed += colours
        sides = stored.shape[0], stored.shape[1]
        self._sizes.add(sides)
        return found, sides


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _outputs(
    model: ResNet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    downscale: int,
    part: str | None,
    variables: dict[str, Any],
    images: jax.Array,
) -> Any:
    """Return the outputs for images. One function of the module: JAX then keeps what it compiled by network."""

    def preprocess(_key: Any, batch: Any) -> jax.Array:
        return downscaled(normalize(batch["image"], mean, std, jnp.dtype(model.config.dtype)), downscale)

    if part == WITH_POOLED:
        (outputs, pooled) = _with_pooled(model, variables, preprocess(None, {"image": images}))
        return {"outputs": _of_stored_size(outputs, images, downscale), "pooled": pooled.astype(jnp.float32)}
    if part is not None:
        features: Any = model.apply(variables, preprocess(None, {"image": images}), train=False, method="features")
        return features[part].astype(jnp.float32)
    outputs = make_predict_step(model, preprocess=preprocess)(variables, {"image": images})
    return _of_stored_size(outputs, images, downscale)


def _of_stored_size(outputs: Any, images: jax.Array, downscale: int) -> Any:
    """Return maps of the size of the images; other outputs as they are."""
    of_pixels = downscale > 1 and outputs.ndim == images.ndim
    return resize_bilinear(outputs, images.shape[1:-1]) if of_pixels else outputs


def _with_pooled(model: ResNet, variables: dict[str, Any], images: jax.Array) -> tuple[Any, jax.Array]:
    """Return outputs and pooled features; the other maps that are captured are not computed, as nothing uses them."""
    found: Any = model.apply(
        variables,
        images,
        train=False,
        mutable=["intermediates"],
        capture_intermediates=lambda _module, method: method == "features",
    )
    outputs, seen = found
    return outputs, seen["intermediates"]["features"][0]["pooled"]


def _checked(pixels: np.ndarray, channels: int, dtype: str, name: str) -> np.ndarray:
    if pixels.dtype != dtype or pixels.ndim != 3 or pixels.shape[-1] != channels:
        raise DataError(
            f"image {name}: pixels must be {dtype} (height, width, {channels}), got {pixels.dtype} {pixels.shape}"
        )
    return pixels


def _read_bytes(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
