"""Looking networks up, and being told what would be right."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from resnet_jax.errors import UsageError
from resnet_jax.models import MODELS, ResNetConfig, create_model, list_models
from resnet_jax.models.init import INITIALIZERS, initializer
from resnet_jax.models.zoo import natural_key


def test_the_classics_are_there():
    imagenet = [f"resnet{d}" for d in (18, 34, 50, 101, 152, 200)] + [f"resnet{d}_v1" for d in (50, 101, 152)]
    cifar = [f"resnet{d}_cifar{b}" for d in (20, 32, 44, 56, 110, 1202) for b in ("", "_b")]
    named = ["preact110_cifar", "preact164_cifar", "preact1001_cifar", "resnetv2_50", "resnetv2_101", "resnetv2_152"]
    named += ["wrn16_8_cifar", "wrn28_10_cifar", "wrn40_4_cifar", "wide_resnet50_2", "wide_resnet101_2"]
    named += ["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "bit_r50x1", "bit_r152x4", "nf_resnet50"]
    assert set(imagenet + cifar + named) <= set(list_models())


def test_every_row_says_where_it_is_from():
    assert [name for name, row in MODELS.items() if len(row.source) <= 10] == []
    shapes = {name: row.input_shape for name, row in MODELS.items()}
    series = {name: 128 if "vdcnn" in name else 150 for name in MODELS if "vdcnn" in name or name.endswith("_ts")}
    assert len(series) == 7
    assert all(shapes.pop(name) == (size, 1) for name, size in series.items())
    assert all(shape == (MODELS[name].image_size,) * 2 + (3,) for name, shape in shapes.items())


def test_patterns_and_natural_order():
    assert list_models("resnet*_cifar") == [f"resnet{d}_cifar" for d in (20, 32, 44, 56, 110, 164, 1001, 1202)]
    assert list_models("vgg*") == []
    assert sorted(["block10", "block2"], key=natural_key) == ["block2", "block10"]


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("resnet05", {}, "unknown model 'resnet05'; did you mean 'resnet50'"),
        ("resnet50", {"num_clases": 3}, "did you mean 'num_classes'"),
        ("resnet50", {"shortcut": "E"}, "unknown shortcut 'E'.*A, A_end, B, B_norm, C"),
        ("resnet50", {"activation": "rellu"}, "did you mean 'relu'"),
        ("resnet50", {"init": "xavier"}, "unknown init 'xavier'; did you mean 'xavier_"),
        ("resnet50", {"dtype": "bf16"}, "unknown dtype 'bf16'.*bfloat16"),
        ("resnet50", {"dtype": "float64"}, "jax_enable_x64"),
        ("resnet50", {"num_classes": -1}, "num_classes must be 0"),
        ("resnet50", {"in_channels": 0}, "in_channels must be 1"),
        ("resnet50", {"stage_sizes": ()}, "one or more blocks"),
        ("resnet50", {"widths": (64,)}, "one positive width for each"),
        ("resnet50", {"norm_momentum": 1.0}, "norm_momentum"),
        ("resnet50", {"norm_eps": 0.0}, "norm_eps"),
    ],
)
def test_wrong_names_and_values_are_refused_with_the_right_ones(name, choices, message):
    with pytest.raises(UsageError, match=message):
        create_model(name, **choices)


def test_dtypes_can_be_given_as_objects():
    assert create_model("resnet18", dtype=jnp.bfloat16) == create_model("resnet18", dtype="bfloat16")


def test_configurations_are_hashable_and_comparable():
    assert hash(create_model("resnet18").config) == hash(ResNetConfig((2, 2, 2, 2)))
    assert create_model("resnet18").config != create_model("resnet34").config


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("kaiming_normal", 2 / (9 * 64)),
        ("kaiming_uniform", 2 / (9 * 64)),
        ("kaiming_normal_fan_in", 2 / (9 * 32)),
        ("kaiming_uniform_fan_in", 2 / (9 * 32)),
        ("xavier_normal", 2 / (9 * (32 + 64))),
        ("xavier_uniform", 2 / (9 * (32 + 64))),
        ("lecun_normal", 1 / (9 * 32)),
        ("torch_uniform", 1 / (3 * 9 * 32)),
        ("normal_0.01", 1e-4),
        ("zeros", 0.0),
    ],
)
def test_initializers_have_the_variance_of_their_definition(name, variance):
    kernel = initializer(name)(jax.random.key(0), (3, 3, 32, 64), jnp.float32)
    np.testing.assert_allclose(kernel.var(), variance, rtol=0.03)


def test_orthogonal_columns_are_orthonormal():
    kernel = initializer("orthogonal")(jax.random.key(0), (3, 3, 4, 8), jnp.float32).reshape(36, 8)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(8), atol=1e-5)


def test_unknown_initializer():
    with pytest.raises((UsageError, TypeCheckError), match="zeros"):
        initializer("zeroes")  # pyright: ignore[reportArgumentType]
    assert set(INITIALIZERS) >= {"kaiming_normal", "xavier_uniform"}
