"""Two images in one: mixup and cutmix on the device, with the corresponding soft labels.

As in :mod:`resnet_jax.data.augment`, an example draws from its own key, so how much of it is replaced, and where,
depends only on (key, epoch, index). **What** it is mixed with depends on the batch: its neighbor, 0 with 1, 2 with 3
and so on. Batches are shuffled anew in each epoch, so this partner is as random as one from a permutation of the batch,
which the papers' code uses; and as the two are on the same device, nothing is communicated. The last example of an odd
batch is unchanged.

Mixup: H. Zhang et al., mixup: Beyond Empirical Risk Minimization (ICLR 2018, arXiv 1710.09412). Cutmix: S. Yun et al.,
CutMix (ICCV 2019, arXiv 1905.04899). Both papers' code draws one lambda per batch; here, as in their equations, each
example has its own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from resnet_jax.data.augment import example_keys
from resnet_jax.errors import UsageError
from resnet_jax.fields import is_known, is_on
from resnet_jax.ops import one_hot

#: Folded into the key of the run: these draws are independent of those for crop, flip and cutout.
STREAM = 0x6D6978
#: Number of equally likely values of lambda.
QUANTILES = 2**12


@dataclass(frozen=True)
class Mix:
    """Which images are mixed, and how.

    Attributes:
        mixup: alpha of mixup's Beta(alpha, alpha); 0 for no mixup. In the paper: 1 on CIFAR, 0.2 on ImageNet. If it is
            not known while the program is traced, the result of :func:`beta_quantiles`.
        cutmix: alpha of cutmix; 0 for none. In the paper: 1.
        probability: probability that an example is mixed at all. With both, each example gets one of the two, with
            equal probability.

    Raises:
        UsageError: for a negative alpha, or a probability outside [0, 1].
    """

    mixup: float | Array = 0.0
    cutmix: float | Array = 0.0
    probability: float | Array = 1.0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            if is_known(value) and not 0.0 <= value < float("inf"):
                raise UsageError(f"{name} {value} must be a finite alpha of 0 or more")
        if is_known(self.probability) and not 0.0 <= self.probability <= 1.0:
            raise UsageError(f"the probability of mixing must be in [0, 1], got {self.probability}")

    def __bool__(self) -> bool:
        """Whether anything is mixed."""
        return (is_on(self.mixup) or is_on(self.cutmix)) and is_on(self.probability)


def mix(
    key: Key[Array, ""],
    images: Float[Array, "b h w c"],
    batch: Mapping[str, Array],
    config: Mix,
    num_classes: int,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
    """Return the images, each mixed with its neighbor, and their soft labels.

    Args:
        key: key of the run; the same throughout training.
        images: images after crop, flip, normalization and cutout. Mixing commutes with normalization.
        batch: with ``label`` (classes (b,), rows (b, k), or values), ``epoch`` and ``index``.
        config: static under ``jit``.
        num_classes: K of the soft labels; used only if the labels are classes. 1: classes 0 and 1 of one output.

    Returns:
        Images of the same dtype, and float32 rows ``lambda y + (1 - lambda) y_partner``.

    >>> batch = {"label": jnp.array([0, 1]), "epoch": jnp.array([0, 0]), "index": jnp.array([7, 8])}
    >>> images = jnp.stack([jnp.zeros((4, 4, 1)), jnp.ones((4, 4, 1))])
    >>> mixed, labels = jax.jit(mix, static_argnums=(3, 4))(jax.random.key(0), images, batch, Mix(mixup=1.0), 2)
    >>> bool(jnp.allclose(mixed[:, 0, 0, 0], labels[:, 1], rtol=1e-6)), labels.sum(axis=1).tolist()
    (True, [1.0, 1.0])
    """
    keys = example_keys(jax.random.fold_in(key, STREAM), batch["epoch"], batch["index"])
    return mix_of(keys, images, label_rows(batch["label"], num_classes), config)


def label_rows(labels: Array, num_classes: int) -> Float[Array, "b k"]:
    """Return labels as rows (b, k): classes (b,) one-hot; values (b,), and yes or no for one output, as one column.

    >>> label_rows(jnp.array([0, 1]), 1).tolist(), label_rows(jnp.array([0, 1]), 2).tolist()
    ([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])
    """
    if labels.ndim != 1:
        return labels
    if num_classes == 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        return labels.astype(jnp.float32)[:, None]
    return one_hot(labels, num_classes)


def mix_of(
    keys: Key[Array, " b"], images: Float[Array, "b h w c"], labels: Float[Array, "b k"], config: Mix
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
    """Return the result of :func:`mix`, given the examples' own keys and rows of labels."""
    other = partner(images)
    mixed, kept = draws_of(keys, config, (images.shape[1], images.shape[2]))
    weight = kept[..., None].astype(images.dtype)
    # where, besides the product: an image that is kept whole must not get the NaN of an infinite partner
    images = jnp.where(weight == 1, images, weight * images + (1 - weight) * other)
    share = mixed[:, None]
    return images, share * labels + (1 - share) * partner(labels)


def partner(rows: Array) -> Array:
    """Swap every two adjacent rows (b, ...); the last of an odd number stays.

    >>> partner(jnp.arange(5)).tolist()
    [1, 0, 3, 2, 4]
    """
    pairs = rows.shape[0] // 2
    swapped = rows[: 2 * pairs].reshape(pairs, 2, *rows.shape[1:])[:, ::-1].reshape(2 * pairs, *rows.shape[1:])
    return swapped if rows.shape[0] == 2 * pairs else jnp.concatenate([swapped, rows[2 * pairs :]])


def draws(
    key: Key[Array, ""], epoch: Int[Array, " b"], index: Int[Array, " b"], config: Mix, size: tuple[int, int]
) -> tuple[Float[Array, " b"], Float[Array, "b h w"]]:
    """Return how much of each example's label is kept, and of each of its pixels; float32, the first is their mean.

    One draw of four 32-bit words per example: whether and how it is mixed, lambda, and the center of cutmix's box.
    """
    return draws_of(example_keys(jax.random.fold_in(key, STREAM), epoch, index), config, size)


def draws_of(
    keys: Key[Array, " b"], config: Mix, size: tuple[int, int]
) -> tuple[Float[Array, " b"], Float[Array, "b h w"]]:
    """Return the result of :func:`draws`, given the examples' own keys."""
    height, width = size
    bits = jax.vmap(lambda k: jax.random.bits(k, (4,), jnp.uint32))(keys)
    uniform = (bits >> jnp.uint32(8)).astype(jnp.float32) / 2**24  # [0, 1), exact
    chance, cell = uniform[:, 0], (uniform[:, 1] * QUANTILES).astype(jnp.int32)
    share = jnp.ones_like(chance)
    pixels = jnp.ones((len(chance), height, width), jnp.float32)
    limit = config.probability / 2 if is_on(config.mixup) and is_on(config.cutmix) else config.probability
    if is_on(config.mixup):
        blend = jnp.where(chance < limit, _quantiles(config.mixup)[cell], 1.0)
        share, pixels = blend, jnp.broadcast_to(blend[:, None, None], pixels.shape)
    if is_on(config.cutmix):
        drawn = _quantiles(config.cutmix)[cell]
        outside = ~box(drawn, uniform[:, 2], uniform[:, 3], size)
        cut = (chance < config.probability) & ((chance >= limit) if is_on(config.mixup) else True)
        area = jnp.mean(outside.astype(jnp.float32), axis=(1, 2))
        share = jnp.where(cut, area, share)
        pixels = jnp.where(cut[:, None, None], outside.astype(jnp.float32), pixels)
    return share, pixels


def box(
    share: Float[Array, " b"], down: Float[Array, " b"], right: Float[Array, " b"], size: tuple[int, int]
) -> Bool[Array, "b h w"]:
    """Return cutmix's box: the image's shape, 1 - ``share`` of its area, around a uniform pixel, clipped at the border.

    Because of the clipping, the label goes by the remaining area of the box and not by lambda (as in the authors'
    code).

    Args:
        share: lambda.
        down: vertical position of the center, in [0, 1).
        right: horizontal position of the center, in [0, 1).
        size: height and width in pixels.
    """

    def inside(length: int, centre: Array) -> Array:
        middle = jnp.floor(centre * length)
        half = jnp.floor(jnp.floor(length * jnp.sqrt(1 - share)) / 2)
        place = jnp.arange(length, dtype=jnp.float32)[None]
        return (place >= (middle - half)[:, None]) & (place < (middle + half)[:, None])

    return inside(size[0], down)[:, :, None] & inside(size[1], right)[:, None, :]


def _quantiles(alpha: float | Array) -> Float[Array, " q"]:
    return jnp.asarray(beta_quantiles(alpha)) if isinstance(alpha, (int, float)) else alpha


@functools.lru_cache(maxsize=64)
def beta_quantiles(alpha: float) -> np.ndarray:
    """Return the quantiles of Beta(alpha, alpha) at (i + 1/2) / 4096, float32: a uniform index is a draw.

    Unlike rejection sampling, this needs one gather and no loop, and is the same on all devices.
    """
    from scipy.special import betaincinv

    values = betaincinv(alpha, alpha, (np.arange(QUANTILES // 2) + 0.5) / QUANTILES)
    return np.concatenate([values, 1 - values[::-1]]).astype(np.float32)
