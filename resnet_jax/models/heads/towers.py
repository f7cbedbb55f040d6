"""Shared parts of the detection heads: the pyramid levels they use, and convolutions that all levels share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.errors import UsageError
from resnet_jax.models import layers
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.heads.pyramid import Pyramid
from resnet_jax.models.init import initializer

#: Initial probability of an object at every position (Lin et al. 2017, section 4.1).
PRIOR = 0.01


def strides_of(config: ResNetConfig) -> tuple[int, ...]:
    """Return the stride of each stage's map, in input pixels."""
    later = config.transition == "stride"
    strides = (config.stem_stride * 2 ** (number + (not later)) for number in range(len(config.stage_sizes)))
    return tuple(min(stride, config.output_stride or stride) for stride in strides)


def first_stage(config: ResNetConfig) -> int:
    """Return the first stage, from 1, that the pyramid uses: the first with a stride of ``pyramid_stride`` or more.

    Raises:
        UsageError: no stage is that coarse.
    """
    strides = strides_of(config)
    wanted = config.pyramid_stride or min(8, max(config.own_stride // 2, 1), strides[-1])
    if wanted > strides[-1]:
        raise UsageError(
            f"pyramid_stride {wanted} is more than any stage of this network has: its stages have {strides}"
        )
    return next(number for number, stride in enumerate(strides, start=1) if stride >= wanted)


def level_strides(config: ResNetConfig) -> tuple[int, ...]:
    """Return the strides of the pyramid's levels, finest first, including the extra levels.

    >>> level_strides(ResNetConfig((2, 2, 2, 2), pyramid_extra=2))
    (8, 16, 32, 64, 128)
    """
    strides = strides_of(config)[first_stage(config) - 1 :]
    return (*strides, *(strides[-1] * 2**more for more in range(1, config.pyramid_extra + 1)))


class Tower(nn.Module):
    """``head_depth`` times a 3x3 convolution, a norm and the activation, with the same weights at every level.

    The norm treats the positions of all levels as one map. Its statistics therefore cover all levels in training as in
    evaluation, and it can be folded into the convolution. (The papers use group norm per level, or no norm.)
    """

    config: ResNetConfig

    @nn.compact
    def __call__(self, levels: Sequence[Array], *, train: bool) -> list[Array]:
        """Return as many maps as were given, with the same sides and ``head_width`` channels."""
        config, maps = self.config, list(levels)
        finish = layers.Finish(relu=True) if layers.finishes(self, config, train=train) else None
        for number in range(1, config.head_depth + 1):
            conv = layers.conv(config, config.head_width, 3, name=f"conv{number}", before_norm=True)
            maps = [conv(x, finish) for x in maps]
            if finish is None:
                joined = layers.norm_and_activate(config, join(maps), name=f"norm{number}", train=train)
                maps = _apart(joined, maps)
        return maps


def towers_of(
    config: ResNetConfig, maps: Mapping[str, Array], *, train: bool
) -> tuple[tuple[Array, ...], list[Array], list[Array]]:
    """Return the levels of the pyramid, and for each level the maps of the class tower and of the box tower.

    Call it within a head's call; the head then owns the modules ``pyramid``, ``class_tower`` and ``box_tower``.
    """
    pyramid = Pyramid(config, first=first_stage(config), extra=config.pyramid_extra, name="pyramid")
    levels = pyramid(maps, train=train)
    classes, boxes = (Tower(config, name=f"{what}_tower")(levels, train=train) for what in ("class", "box"))
    return levels, classes, boxes


def join(maps: Sequence[Array]) -> Float[Array, "n p c"]:
    """Return the positions of all maps (N, H, W, C), level after level and row after row."""
    return jnp.concatenate([x.reshape(len(x), -1, x.shape[-1]) for x in maps], axis=1)


def _apart(joined: Array, like: Sequence[Array]) -> list[Array]:
    ends = np.cumsum([math.prod(x.shape[1:-1]) for x in like])[:-1].tolist()
    return [part.reshape(x.shape) for part, x in zip(jnp.split(joined, ends, axis=1), like, strict=True)]


def last_conv(config: ResNetConfig, maps: Sequence[Array], features: int, *, name: str) -> Float[Array, "n p f"]:
    """Return the outputs of a 3x3 convolution at all positions of all levels, float32 or wider.

    Its weights start normal with standard deviation 0.01, as in the papers. It is called ``classifier_{name}``.
    """
    layer = layers.Conv(
        features,
        3,
        use_bias=True,
        kernel_init=initializer("normal_0.01"),
        dtype=config.head_dtype,
        param_dtype=config.param_dtype,
        name=f"classifier_{name}",
    )
    return join([layer(x) for x in maps])


def class_logits(config: ResNetConfig, maps: Sequence[Array], each: int = 1) -> Float[Array, "n p k"]:
    """Return logits of ``num_classes`` classes for ``each`` boxes at every position; they start at a probability of 1
    %.
    """
    numbers = last_conv(config, maps, each * config.num_classes, name="class")
    return numbers.reshape(len(numbers), -1, config.num_classes) - math.log((1 - PRIOR) / PRIOR)


def grid(sides: tuple[int, ...], stride: int) -> np.ndarray:
    """Return row and column of the top left corner of every cell of a map, float32 (positions, 2), in pixels."""
    rows, columns = (np.arange(side, dtype=np.float32) * stride for side in sides)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def require_images(config: ResNetConfig) -> None:
    """Refuse networks whose inputs are not images.

    Raises:
        UsageError: they have another number of spatial dimensions.
    """
    if config.spatial_dims != 2:
        raise UsageError(f"head {config.head} finds boxes in images, and spatial_dims is {config.spatial_dims}")


def for_each(count: int, constant: np.ndarray) -> Array:
    """Repeat a constant (...) for every example: (N, ...)."""
    return jnp.broadcast_to(jnp.asarray(constant, jnp.float32), (count, *constant.shape))
