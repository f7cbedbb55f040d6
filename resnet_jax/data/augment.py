"""Augmentation and normalization on the device, as pure functions of (key, epoch, index).

Every example draws from its own key, folded from the epoch and its index in the data set: an example gets the same crop
whatever batch it is in, wherever in the batch, on whichever device, and after any restart. With a batch sharded over
devices, nothing is communicated.

Pad-and-crop with flips is the augmentation of K. He et al., Deep Residual Learning for Image Recognition (CVPR 2016,
section 4.2), after C.-Y. Lee et al., Deeply-Supervised Nets (AISTATS 2015). Cutout follows T. DeVries and G. W. Taylor,
Improved Regularization of Convolutional Neural Networks with Cutout (2017, arXiv 1708.04552).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt8, UInt32

from resnet_jax.errors import UsageError

FIELD_BITS = 16
"""Random bits per offset: a window of n positions is uniform to within n / 2^16."""

CUTOUT_STREAM = 0x637574
"""Folded into the key of the run, so that cutout draws independently of crop and flip."""


@dataclass(frozen=True)
class Augment:
    """What to do to a training image.

    Attributes:
        pad: zero pixels added on each side before a random crop back to the image's size. Zero is black in uint8,
            before normalization, as in torchvision's ``RandomCrop(32, padding=4)``.
        flip: mirror horizontally with probability 1/2.
        cutout: side in pixels of a square set to the mean of the data, 0 after normalization; 0 for none. In the paper:
            16 on CIFAR-10 and 8 on CIFAR-100, with crops and flips.

    Raises:
        UsageError: if ``pad`` is negative or allows more than 2^16 positions, or ``cutout`` is negative.
    """

    pad: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.cutout < 0:
            raise UsageError(f"cutout {self.cutout} must be a side of 0 or more pixels")
        if not 0 <= self.pad < 2 ** (FIELD_BITS - 1):
            raise UsageError(f"pad {self.pad} must be at least 0 and below {2 ** (FIELD_BITS - 1)} pixels")


def example_keys(key: Key[Array, ""], epoch: Int[Array, " b"], index: Int[Array, " b"]) -> Key[Array, " b"]:
    """Return one key per example: ``fold_in(fold_in(key, epoch), index)``."""

    def one(epoch: Array, index: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(key, epoch), index)

    return jax.vmap(one)(epoch, index)


def draws(
    key: Key[Array, ""], epoch: Int[Array, " b"], index: Int[Array, " b"], pad: int
) -> tuple[Int[Array, " b"], Int[Array, " b"], Bool[Array, " b"]]:
    """Return the top and left corner of the crop in the padded image (0 .. 2 pad) and whether to flip.

    One draw of two 32-bit words per example: the halves of the first determine the crop, the second the flip.
    """
    return draws_of(example_keys(key, epoch, index), pad)


def draws_of(keys: Key[Array, " b"], pad: int) -> tuple[Int[Array, " b"], Int[Array, " b"], Bool[Array, " b"]]:
    """Return the result of :func:`draws`, given the examples' own keys."""
    bits = jax.vmap(lambda k: jax.random.bits(k, (2,), jnp.uint32))(keys)
    half = jnp.uint32(FIELD_BITS)
    top = _below(bits[:, 0] >> half, 2 * pad + 1)
    left = _below(bits[:, 0] & jnp.uint32(2**FIELD_BITS - 1), 2 * pad + 1)
    return top, left, (bits[:, 1] >> jnp.uint32(31)).astype(bool)


def _below(field: UInt32[Array, " b"], count: int) -> Int[Array, " b"]:
    """Map a field of 16 random bits to 0 .. count - 1 by multiply and shift."""
    return ((field * jnp.uint32(count)) >> jnp.uint32(FIELD_BITS)).astype(jnp.int32)


def augment(key: Key[Array, ""], batch: Mapping[str, Array], config: Augment) -> UInt8[Array, "b h w c"]:
    """Return the images of a batch, randomly cropped from a black frame and randomly mirrored.

    :func:`cutout` comes after normalization, and is not done here.

    Args:
        key: key of the run; the same throughout training.
        batch: with ``image`` uint8 (b, h, w, c), ``epoch`` and ``index`` integers (b,).
        config: static under ``jit``.

    >>> zeros = jnp.zeros((2, 4, 4, 1), jnp.uint8)
    >>> batch = {"image": zeros, "epoch": jnp.array([0, 0]), "index": jnp.array([7, 8])}
    >>> augment(jax.random.key(0), batch, Augment(pad=1, flip=True)).shape
    (2, 4, 4, 1)
    """
    images = batch["image"]
    if not (config.pad or config.flip):
        return images
    top, left, flip = draws(key, batch["epoch"], batch["index"], config.pad)
    if config.pad:
        images = crop(images, top, left, config.pad)
    return jnp.where(flip[:, None, None, None], mirror(images), images) if config.flip else images


def crop(
    images: Shaped[Array, "b h w c"], top: Int[Array, " b"], left: Int[Array, " b"], pad: int
) -> Shaped[Array, "b h w c"]:
    """Pad every side with ``pad`` zeros and crop to the original size at (top, left), separately for each image."""
    frame = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    shape = images.shape[1:]

    def cut(image: Array, top: Array, left: Array) -> Array:
        return jax.lax.dynamic_slice(image, (top, left, jnp.zeros_like(top)), shape)

    return jax.vmap(cut)(frame, top, left)


def mirror(images: UInt8[Array, "b h w c"]) -> UInt8[Array, "b h w c"]:
    """Mirror horizontally."""
    return images[:, :, ::-1]


def cutout(
    key: Key[Array, ""], images: Float[Array, "b h w c"], batch: Mapping[str, Array], side: int
) -> Float[Array, "b h w c"]:
    """Set a square around a uniformly drawn pixel to 0, as far as it is in the image, separately for each image.

    Args:
        key: key of the run; the same throughout training.
        images: normalized, so that 0 is the mean.
        batch: with ``epoch`` and ``index`` integers (b,).
        side: side of the square in pixels. An even one reaches one pixel further up and left of the drawn pixel.

    >>> batch = {"epoch": jnp.array([0]), "index": jnp.array([3])}
    >>> cutout(jax.random.key(0), jnp.ones((1, 5, 5, 1)), batch, 3)[0, :, :, 0].astype(int).tolist()
    [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    """
    if not side:
        return images
    keys = example_keys(jax.random.fold_in(key, CUTOUT_STREAM), batch["epoch"], batch["index"])
    return cut_out(keys, images, side)


def cut_out(keys: Key[Array, " b"], images: Float[Array, "b h w c"], side: int) -> Float[Array, "b h w c"]:
    """Return the result of :func:`cutout`, given the examples' own keys."""
    bits = jax.vmap(lambda k: jax.random.bits(k, (), jnp.uint32))(keys)
    fields = (bits >> jnp.uint32(FIELD_BITS), bits & jnp.uint32(2**FIELD_BITS - 1))

    def inside(field: Array, length: int) -> Array:
        first = _below(field, length) - side // 2
        place = jnp.arange(length)[None]
        return (place >= first[:, None]) & (place < first[:, None] + side)

    down, right = (inside(field, length) for field, length in zip(fields, images.shape[1:3], strict=True))
    return jnp.where((down[:, :, None] & right[:, None, :])[..., None], jnp.zeros((), images.dtype), images)


def normalize(
    images: Shaped[Array, "b *sides c"],
    mean: Sequence[float] | np.ndarray | Array,
    std: Sequence[float] | np.ndarray | Array,
    dtype: jnp.dtype | type = jnp.float32,
) -> Float[Array, "b *sides c"]:
    """Return ``(images / 255 - mean) / std`` per channel, in float32 and then cast; only uint8 is divided by 255.

    Args:
        images: inputs of any rank and dtype, channels last.
        mean: (c,), of x / 255 for uint8, otherwise of the values.
        std: (c,), likewise.
        dtype: the dtype in which the network computes.

    Raises:
        UsageError: if ``mean`` or ``std`` does not have length c.

    >>> normalize(jnp.array([[[[0, 255]]]], jnp.uint8), mean=(0.5, 0.5), std=(0.5, 0.25)).ravel().tolist()
    [-1.0, 2.0]
    """
    channels = images.shape[-1]
    if np.shape(mean) != (channels,) or np.shape(std) != (channels,):
        raise UsageError(
            f"mean has shape {np.shape(mean)} and std {np.shape(std)}; need one number for each of the "
            f"{channels} channels, shape ({channels},)"
        )
    mean, std = (jnp.asarray(v, jnp.float32).reshape(*(1,) * (images.ndim - 1), channels) for v in (mean, std))
    values = images.astype(jnp.float32)
    values = values / 255 if images.dtype == jnp.uint8 else values
    return ((values - mean) / std).astype(dtype)


def downscaled(images: Float[Array, "b *spatial c"], factor: int) -> Float[Array, "b *small c"]:
    """Return images at 1/factor of their sides: averages over blocks of pixels.

    Raises:
        UsageError: if the factor does not divide the sides.

    >>> downscaled(jnp.array([[[[1.0], [3.0]], [[5.0], [7.0]]]]), 2).tolist()
    [[[[4.0]]]]
    """
    if factor == 1:
        return images
    sides = images.shape[1:-1]
    if any(side % factor for side in sides):
        raise UsageError(
            f"data.downscale {factor} does not divide the sides of inputs of {'x'.join(map(str, sides))}: use a factor "
            "that does"
        )
    blocks = [part for side in sides for part in (side // factor, factor)]
    within = tuple(range(2, 2 * len(sides) + 1, 2))
    return images.reshape(images.shape[0], *blocks, images.shape[-1]).mean(axis=within)
