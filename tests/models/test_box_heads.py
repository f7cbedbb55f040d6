"""Heads that find boxes: anchors, levels, networks without normalization, folding."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.heads.retinanet import anchor_shapes, anchors_of
from resnet_jax.models.heads.towers import level_strides
from resnet_jax.training.roles import count_by_role
from resnet_jax.weights.fold import fold_batch_norm
from tests.tools import initialize

TINY = ResNetConfig((1, 1, 1), (4, 8, 8), stem="cifar", num_classes=3, head="fcos", head_width=8, head_depth=1)


def outputs_shape(config, sides=(16, 24)):
    model = ResNet(config)
    variables = abstract_variables(model, (*sides, 3))
    images = jax.ShapeDtypeStruct((2, *sides, 3), jnp.float32)
    return jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images), variables


def torchvision_anchors(stride, rows, columns):
    """Torchvision's AnchorGenerator for one level of its RetinaNet, in its words: x1, y1, x2, y2."""
    x = 4 * stride
    scales = np.array([x, int(x * 2 ** (1.0 / 3)), int(x * 2 ** (2.0 / 3))], np.float32)
    h_ratios = np.sqrt(np.array((0.5, 1.0, 2.0), np.float32))
    w_ratios = 1 / h_ratios
    ws = (w_ratios[:, None] * scales[None, :]).reshape(-1)
    hs = (h_ratios[:, None] * scales[None, :]).reshape(-1)
    base = (np.stack([-ws, -hs, ws, hs], axis=1) / 2).round()
    shifts_x, shifts_y = np.arange(columns) * stride, np.arange(rows) * stride
    shift_y, shift_x = (each.reshape(-1) for each in np.meshgrid(shifts_y, shifts_x, indexing="ij"))
    shifts = np.stack((shift_x, shift_y, shift_x, shift_y), axis=1)
    return (shifts.reshape(-1, 1, 4) + base.reshape(1, -1, 4)).reshape(-1, 4)


def test_anchors_are_those_of_torchvision():
    strides, sides = (8, 16, 32), [(30, 40), (15, 20), (8, 10)]
    found = anchors_of(sides, strides)
    expected = np.concatenate([torchvision_anchors(s, *side) for s, side in zip(strides, sides, strict=True)])
    np.testing.assert_array_equal(found[:, [1, 0, 3, 2]], expected)
    for stride in (8, 16, 32, 64, 128):
        np.testing.assert_array_equal(anchor_shapes(stride)[:, [1, 0, 3, 2]], torchvision_anchors(stride, 1, 1))


def test_levels_go_by_stride():
    assert level_strides(ResNetConfig((2, 2, 2, 2), pyramid_extra=2)) == (8, 16, 32, 64, 128)
    assert level_strides(ResNetConfig((2, 2, 2, 2), pyramid_stride=4)) == (4, 8, 16, 32)
    assert level_strides(ResNetConfig((2, 2, 2, 2), output_stride=8)) == (8, 8, 8)
    assert level_strides(ResNetConfig((2, 2), (4, 8), stem="cifar", transition="conv_pool")) == (2, 4)
    with pytest.raises(UsageError, match="pyramid_stride 64 is more than any stage"):
        level_strides(ResNetConfig((2, 2, 2, 2), pyramid_stride=64))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "none", "residual": "nf", "order": "pre"},
        {"norm": "none", "residual": "fixup"},
        {"norm": "none", "residual": "skipinit"},
        {"norm": "group", "norm_groups": 4, "weight_standardization": "standard"},
    ],
)
@pytest.mark.slow
def test_places_are_those_of_all_levels_whatever_the_norm(changes):
    found, variables = outputs_shape(dataclasses.replace(TINY, **changes))
    places = 8 * 12 + 4 * 6
    shapes = {name: each.shape for name, each in found.items()}
    assert shapes == {
        "class": (2, places, 3),
        "box": (2, places, 4),
        "centre": (2, places),
        "anchors": (2, places, 4),
        "size": (2, 2),
    }
    assert all(each.dtype == jnp.float32 for each in found.values())
    found, _ = outputs_shape(dataclasses.replace(TINY, **changes, head="retinanet", pyramid_extra=1))
    assert found["class"].shape == (2, 9 * (places + 2 * 3), 3)
    roles = count_by_role(variables["params"])
    assert roles["head"] == 9 * 8 * (3 + 4 + 1)
    assert ("norm_scale" in roles) == (changes.get("norm") != "none")


def test_in_half_precision_boxes_are_float32():
    found, _ = outputs_shape(dataclasses.replace(TINY, dtype="bfloat16"))
    assert all(each.dtype == jnp.float32 for each in found.values())


def test_signals_have_no_boxes():
    with pytest.raises(UsageError, match="head fcos finds boxes in images, and spatial_dims is 1"):
        initialize(ResNet(dataclasses.replace(TINY, spatial_dims=1)), jnp.ones((1, 16, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["fcos", "retinanet"])
def test_folded_it_says_the_same(head):
    model = ResNet(dataclasses.replace(TINY, head=head, head_depth=2))
    images = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
    variables = initialize(model, images)
    for _ in range(2):  # so that the statistics are not those of the beginning
        _, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        variables = {**variables, **updates}
    folded, prepared = fold_batch_norm(model, variables)
    expected, found = model.apply(variables, images, train=False), folded.apply(prepared, images, train=False)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=2e-5, err_msg=name)
