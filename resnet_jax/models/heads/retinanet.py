"""Head ``retinanet``: classes and boxes relative to nine anchors at every position of a feature pyramid.

T.-Y. Lin et al. 2017, *Focal Loss for Dense Object Detection* (arXiv 1708.02002). Anchors are those of torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from flax import linen as nn
from jaxtyping import Array

from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.heads.registry import register_head
from resnet_jax.models.heads.towers import (
    class_logits,
    for_each,
    grid,
    last_conv,
    level_strides,
    require_images,
    towers_of,
)

#: Height over width of the anchors.
RATIOS = (0.5, 1.0, 2.0)
#: Side of the smallest square anchor of a level, in strides; the other two are 2^(1/3) and 2^(2/3) times as large.
SIDE = 4


def anchor_shapes(stride: int) -> np.ndarray:
    """Return the nine anchors of a level around (0, 0), float32 (9, 4): top, left, bottom, right in pixels.

    They are ordered by ratio, then by size. Sizes and corners are whole numbers, as in torchvision.

    >>> anchor_shapes(8)[3].tolist()
    [-16.0, -16.0, 16.0, 16.0]
    """
    sizes = np.array([int(SIDE * stride * 2 ** (part / 3)) for part in range(3)])
    heights = (np.sqrt(RATIOS)[:, None] * sizes[None]).ravel()
    widths = (1 / np.sqrt(RATIOS)[:, None] * sizes[None]).ravel()
    return np.round(np.stack([-heights, -widths, heights, widths], axis=1) / 2).astype(np.float32)


def anchors_of(sides: Sequence[tuple[int, ...]], strides: Sequence[int]) -> np.ndarray:
    """Return the anchors of all levels, float32 (P, 4): level after level, row after row, nine at each position.

    Args:
        sides: height and width of each level's map.
        strides: strides of the levels.
    """
    levels = [
        np.tile(grid(side, stride), 2)[:, None] + anchor_shapes(stride)[None]
        for side, stride in zip(sides, strides, strict=True)
    ]
    return np.concatenate([level.reshape(-1, 4) for level in levels])


class RetinaNetHead(nn.Module):
    """Two towers on the levels of a pyramid. P is the positions of all levels, level after level, times nine anchors:

    ========= ============= =============================================================================
    class     (N, P, K)     logits
    box       (N, P, 4)     what :func:`resnet_jax.ops.boxes.decode` takes
    anchors   (N, P, 4)     top, left, bottom, right in pixels
    size      (N, 2)        height and width of the input
    ========= ============= =============================================================================
    """

    config: ResNetConfig

    @nn.compact
    def __call__(self, maps: Mapping[str, Array], *, size: tuple[int, ...], train: bool) -> dict[str, Array]:
        """Return the outputs above.

        Args:
            maps: the result of :meth:`resnet_jax.models.ResNet.features`.
            size: height and width of the input.
            train: the mode of norms.
        """
        config = self.config
        levels, classes, boxes = towers_of(config, maps, train=train)
        anchors = anchors_of([x.shape[1:-1] for x in levels], level_strides(config))
        count, each = len(levels[0]), len(anchor_shapes(1))
        return {
            "class": class_logits(config, classes, each),
            "box": last_conv(config, boxes, 4 * each, name="box").reshape(count, -1, 4),
            "anchors": for_each(count, anchors),
            "size": for_each(count, np.array(size)),
        }


@register_head("retinanet")
def retinanet(config: ResNetConfig) -> nn.Module:
    """RetinaNet."""
    require_images(config)
    return RetinaNetHead(config, name="head")
