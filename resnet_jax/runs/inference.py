"""A network ready for images: prepared as in evaluation, computed in batches of a few sizes, each compiled once."""

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
"""Sizes of the compiled batches. A single size works for any number of images, and is small so that results come
soon."""

WITH_POOLED = "outputs and pooled"
"""In place of a part of the network: its outputs and the pooled features they are computed from, in one program."""

Image = str | Path | bytes | np.ndarray | DataError
"""The path or the bytes of an image file, its pixels (H, W, C) as uint8 or what the network takes, or why there is
none."""


class Inference:
    """A network with its preprocessing; every batch size is compiled once per process for the same network.

    Args:
        trained: as returned by :func:`resnet_jax.runs.trained.load_run`.
        buckets: batch sizes, ascending. Images are processed in batches of the largest size; the remaining ones use the
            smallest size that holds them, padded. A server that answers single images as fast as possible uses (1, 8,
            64).
        part: None for the network's outputs, or a name from :meth:`resnet_jax.models.ResNet.features`; for
            :data:`WITH_POOLED`, :meth:`outputs` returns a dict of both, ``outputs`` and ``pooled``.

    Raises:
        UsageError: if the network's normalization is unknown, or buckets are not ascending.
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
        """Return the network's outputs, float32 (N, ...), for images (N, H, W, C) of the network's size and dtype.

        For heads with several outputs, this is a dict of such arrays.

        Raises:
            UsageError: for images of another shape or dtype.
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
        """Yield name and result of every image; see :meth:`each_with_sides`."""
        return ((name, found) for name, _, found in self.each_with_sides(images, compute))

    def each_with_sides(
        self, images: Iterable[Image], compute: Callable[[np.ndarray], Any] | None = None
    ) -> Iterator[tuple[str, tuple[int, int], Any | DataError]]:
        """Yield name, height and width as stored, and result of every image, in order, one batch at a time.

        An unreadable image has the sides (0, 0), and the reason instead of a result.

        Args:
            images: any number of images; bytes and pixels are named by their position, counted from 0.
            compute: what to compute from images (N, H, W, C), one row each (default: :meth:`outputs`).
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
        """Describe what was done to the images read so far: other sizes, color converted to gray."""
        sizes = describe_sizes(self.trained, self._sizes)
        if not self._greyed:
            return sizes
        images = "1 image" if self._greyed == 1 else f"{self._greyed:,} images"
        return (*sizes, f"{images} in color converted to gray: the network takes 1 channel")

    def read(self, image: Image, name: str) -> np.ndarray | DataError:
        """Return an image as the network takes it, (H, W, C), or why it cannot be read.

        Args:
            image: see :data:`Image`.
            name: its name for messages.
        """
        return self.read_with_sides(image, name)[0]

    def read_with_sides(self, image: Image, name: str) -> tuple[np.ndarray | DataError, tuple[int, int]]:
        """Return the result of :meth:`read`, and height and width of the image as stored."""
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
    """Return the outputs for images. A module-level function, so that JAX caches the compiled program by network."""

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
    """Return maps resized to the size of the images; other outputs unchanged."""
    of_pixels = downscale > 1 and outputs.ndim == images.ndim
    return resize_bilinear(outputs, images.shape[1:-1]) if of_pixels else outputs


def _with_pooled(model: ResNet, variables: dict[str, Any], images: jax.Array) -> tuple[Any, jax.Array]:
    """Return outputs and pooled features; the other captured maps are unused, so they are not computed."""
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
