"""The network for time series: even windows, no stem, no strides, a norm on the identity."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig, create_model
from resnet_jax.models.layers import Conv
from tests.tools import random_variables


@pytest.mark.parametrize(
    ("window", "dilation", "strides"), [(8, 1, 1), (8, 3, 1), (8, 1, 2), (80, 1, 4), (5, 2, 1), (4, 1, 1)]
)
def test_same_is_what_tensorflow_pads(window, dilation, strides):
    """Of stride 1 and dilation 1: (k - 1) // 2 zeros before, k // 2 after. With a stride TensorFlow pads less."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 3)), jnp.float32)
    layer: Any = Conv(4, window, strides, dilation=dilation, same=True)
    variables = layer.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"]
    padding = "SAME" if strides == 1 else [((window - 1) // 2, window // 2)]
    expected = lax.conv_general_dilated(
        x, kernel, (strides,), padding, rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
    )
    found = layer.apply(variables, x)
    assert found.shape == (2, 16 // strides, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_same_an_even_window_shrinks_the_map_as_before():
    x = jnp.ones((1, 8, 8, 3))
    assert Conv(4, 2).init_with_output(jax.random.key(0), x)[0].shape == (1, 7, 7, 4)


@pytest.mark.slow
def test_the_network_is_the_published_one():
    """Against the layers of hfawaz/dl-4-tsc written out with ``lax``, in evaluation."""
    model: Any = create_model("resnet_ts", widths=(4, 6, 6), num_classes=3)
    variables = random_variables(model, (20, 1))
    params, stats = variables["params"], variables["batch_stats"]
    series = np.random.default_rng(1).normal(size=(2, 20, 1)).astype(np.float32)

    def conv(x, layer):
        y = lax.conv_general_dilated(x, layer["kernel"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        return y + layer["bias"][None, None]

    def norm(x, layer, moments):
        scale, bias, mean, var = (
            v[None, None] for v in (layer["scale"], layer["bias"], moments["mean"], moments["var"])
        )
        return (x - mean) / jnp.sqrt(var + 1e-3) * scale + bias

    x = series
    for stage in ("stage1", "stage2", "stage3"):
        block, moments = params[stage]["block0"], stats[stage]["block0"]
        y = x
        for number in (1, 2, 3):
            y = norm(conv(y, block["branch"][f"conv{number}"]), block["branch"][f"norm{number}"],
                     moments["branch"][f"norm{number}"])  # fmt: skip
            y = jax.nn.relu(y) if number < 3 else y
        skip = conv(x, block["shortcut"]["conv"]) if stage != "stage3" else x
        x = jax.nn.relu(norm(skip, block["shortcut"]["norm"], moments["shortcut"]["norm"]) + y)
    expected = x.mean(axis=1) @ params["head"]["kernel"] + params["head"]["bias"][None]
    np.testing.assert_allclose(model.apply(variables, series, train=False), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"stem": "none", "order": "pre"}, "activate the input itself"),
        ({"shortcut": "B_norm", "norm": "none"}, "without one it is shortcut B"),
        ({"transition": "none", "output_stride": 8, "stem": "imagenet"}, "transition none has no stride"),
        ({"frontend": "log_mel"}, "for audio with spatial_dims 1, and spatial_dims is 2"),
        ({"mel_band_mask": 3}, "need frontend log_mel, and frontend is none"),
    ],
)
def test_what_does_not_go_together(choices, message):
    with pytest.raises(UsageError, match=message):
        ResNetConfig((1, 1), (4, 8), **{"stem": "cifar", **choices})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fixup_resnet_ts", "skipinit_resnet_ts", "nf_resnet_ts"])
def test_networks_without_norms_keep_the_length(name):
    model: Any = ResNet(dataclasses.replace(create_model(name).config, widths=(4, 6, 6)))
    maps = model.apply(random_variables(model, (11, 1)), jnp.ones((2, 11, 1)), train=False, method="features")
    assert [maps[f"stage{s}"].shape for s in (1, 2, 3)] == [(2, 11, 4), (2, 11, 6), (2, 11, 6)]
