"""Head ``fcos``: class, distances to the sides of a box, and centerness at every position of a feature pyramid.

Z. Tian et al. 2019, *FCOS: Fully Convolutional One-Stage Object Detection* (arXiv 1904.01355), with the centerness
branch beside the distances, as in the authors' later version (arXiv 2006.09214).
"""

from __future__ import annotations

from collections.abc import Mapping

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


class FCOSHead(nn.Module):
    """Two towers on the levels of a pyramid. The outputs cover all P positions of all levels, level after level:

    ========= ============= =============================================================================
    class     (N, P, K)     logits
    box       (N, P, 4)     what :func:`resnet_jax.ops.boxes.from_distances` takes
    centre    (N, P)        logit of the centerness
    anchors   (N, P, 4)     the cells, squares as wide as the stride: top, left, bottom, right in pixels
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
        cells = [
            np.concatenate([grid(x.shape[1:-1], stride), grid(x.shape[1:-1], stride) + stride], axis=1)
            for x, stride in zip(levels, level_strides(config), strict=True)
        ]
        count = len(levels[0])
        return {
            "class": class_logits(config, classes),
            "box": last_conv(config, boxes, 4, name="box"),
            "centre": last_conv(config, boxes, 1, name="centre")[..., 0],
            "anchors": for_each(count, np.concatenate(cells)),
            "size": for_each(count, np.array(size)),
        }


@register_head("fcos")
def fcos(config: ResNetConfig) -> nn.Module:
    """FCOS."""
    require_images(config)
    return FCOSHead(config, name="head")
