"""A network with published weights, in Python: ``load_weights(NAME)`` and ``create_model(..., weights=NAME)``.

A network is a pure function and holds no weights, so both return three things: the network, its variables, and the
preprocessing of its images.

    model, variables, transforms = load_weights("resnet50.a1_in1k")
    logits = model.apply(variables, transforms(images), train=False)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack, overload

from resnet_jax.errors import UsageError
from resnet_jax.models import zoo
from resnet_jax.models.choices import ModelChoices
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.published import Published, find_published

if TYPE_CHECKING:
    import numpy as np

    from resnet_jax.data.transform import Geometry


@dataclasses.dataclass(frozen=True)
class Transforms:
    """Preprocessing of images for a network: resize, center crop, normalize.

    Attributes:
        mean: per channel, of x / 255.
        std: per channel, of x / 255.
        image_size: side of the network's input in pixels.
        resize: length in pixels to which the shorter side is resized first.
        interpolation: interpolation method, as ``data.interpolation``.
        class_names: names of the network's outputs in order; empty if unknown or if the classifier is new.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    resize: int
    interpolation: str
    class_names: tuple[str, ...] = ()

    @property
    def geometry(self) -> Geometry:
        """The host-side resize and crop."""
        from resnet_jax.data.transform import Geometry

        return Geometry(self.image_size, eval_side=self.resize, interpolation=self.interpolation)  # pyright: ignore

    def __call__(self, images: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Return float32 (N, S, S, C), normalized.

        Args:
            images: uint8 arrays (H, W, C) of any size, or paths of image files.

        Raises:
            DataError: a file cannot be read.
            UsageError: the pixels are not uint8 (H, W, C).
        """
        import numpy as np

        from resnet_jax.data.decode import decode_image
        from resnet_jax.runtime.plain_files import read_file

        geometry, channels, found = self.geometry, len(self.mean), []
        for image in images:
            if isinstance(image, (str, Path)):
                image = decode_image(read_file(image), channels, str(image), "stored")
            pixels = np.asarray(image)
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != channels:
                raise UsageError(f"images are uint8 (H, W, {channels}), got {pixels.dtype} {pixels.shape}")
            found.append(geometry.eval_image(pixels))
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        empty = np.zeros((0, self.image_size, self.image_size, channels), np.float32)
        return (np.stack(found).astype(np.float32) / 255 - mean) / std if found else empty


class Pretrained(NamedTuple):
    """A network with its weights and the preprocessing of its images."""

    model: ResNet
    variables: dict[str, Any]
    transforms: Transforms


def load_weights(
    weights: str | Published,
    *,
    source: str | Path | None = None,
    cache: Path | None = None,
    seed: int = 0,
    **choices: Unpack[ModelChoices],
) -> Pretrained:
    """Return a network with published weights, downloading them first if they are not in the cache.

    Args:
        weights: a name from ``resnet-jax weights list``.
        source: a file with the weights, or a folder that contains it, to avoid network access.
        cache: the folder to keep downloads in.
        seed: seed of a new classifier.
        **choices: fields of :class:`resnet_jax.ResNetConfig` to change. ``num_classes`` creates a new classifier, or
            none if it is 0; ``in_channels`` gives each channel the mean of the first kernels.

    Raises:
        UsageError: there are no such weights, or the choices do not fit them.
        DataError: they cannot be downloaded, or fail verification.
    """
    from resnet_jax.deploy.hub import class_names_of, fetch_weights, model_of
    from resnet_jax.weights import to_variables
    from resnet_jax.weights.files import read_weights

    fetched = fetch_weights(weights, source=source, cache=cache)
    row = fetched.row
    plain, model = model_of(row).config, model_of(row, **choices)
    new_head = model.config.num_classes != plain.num_classes
    fresh: Any = None
    if new_head and model.config.num_classes:
        import jax

        from resnet_jax.models.initialize import init_variables

        shape = (row.image_size,) * 2 + (model.config.in_channels,)
        fresh = init_variables(model, jax.random.key(seed), shape)
    variables = to_variables(
        read_weights(fetched.path).tensors,
        model,
        row.format,
        head="new" if new_head else "exact",
        stem="mean" if model.config.in_channels != plain.in_channels else "exact",
        fresh=fresh,
    )
    names = () if new_head else class_names_of(row) or ()
    size = (row.image_size, row.resize, row.interpolation)
    return Pretrained(model, variables, Transforms(row.mean, row.std, *size, names))


@overload
def create_model(name: str, *, weights: None = None, **choices: Unpack[ModelChoices]) -> ResNet: ...
@overload
def create_model(name: str, *, weights: str, **choices: Unpack[ModelChoices]) -> Pretrained: ...
def create_model(name: str, *, weights: str | None = None, **choices: Unpack[ModelChoices]) -> ResNet | Pretrained:
    """Build the network called ``name``, with any changed choices, and with published weights if you name some.

    Args:
        name: a name of :func:`resnet_jax.list_models`.
        weights: None for the network alone. A name of published weights of this network returns ``(model, variables,
            transforms)`` instead; see :func:`load_weights`.
        **choices: fields of :class:`resnet_jax.ResNetConfig`, e.g. ``num_classes=10, shortcut="B", dtype="bfloat16"``.

    Raises:
        UsageError: unknown name, choice or value (the message suggests the nearest one), or weights of another network.

    >>> create_model("resnet20_cifar", in_channels=1).config.stage_sizes
    (3, 3, 3)
    >>> create_model("resnet18", weights="resnet50.a1_in1k")
    Traceback (most recent call last):
    resnet_jax.errors.UsageError: the weights resnet50.a1_in1k are of resnet50, not of resnet18
    """
    if weights is None:
        return zoo.create_model(name, **choices)
    row = find_published(weights)
    if row.model != name:
        raise UsageError(f"the weights {weights} are of {row.model}, not of {name}")
    return load_weights(row, **choices)
