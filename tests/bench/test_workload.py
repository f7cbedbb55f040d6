"""What can be measured, what can be compared, and what an image costs."""

from __future__ import annotations

import itertools
import json

import pytest

from resnet_jax.bench.limits import image_costs, measure_limits
from resnet_jax.bench.workload import Workload, peer_network
from resnet_jax.errors import UsageError
from resnet_jax.models import ModelSpec, ResNet, ResNetConfig, create_model
from resnet_jax.models.count import count_elements


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"batch": 0}, "batch must be 1 or more"),
        ({"image_size": 0}, "image_size must be 1 or more"),
        ({"steps_per_dispatch": 0}, "steps_per_dispatch must be 1 or more"),
        ({"accumulate": -1}, "accumulate must be 1 or more"),
        ({"mode": "infer", "steps_per_dispatch": 2}, "for training"),
    ],
)
def test_wrong_numbers_are_refused(choices, message):
    with pytest.raises(UsageError, match=message):
        Workload(**{"model": ModelSpec("resnet20_cifar"), "batch": 2, **choices})


def test_only_what_was_asked_for_reaches_the_network():
    assert Workload(ModelSpec("resnet20_cifar"), 2).network() == create_model("resnet20_cifar")
    assert Workload(ModelSpec("resnet20_cifar", dtype="bfloat16"), 2).network().config.dtype == "bfloat16"
    with pytest.raises(UsageError, match="did you mean 'resnet50'"):
        Workload(ModelSpec("resnet05"), 2).network()


def test_a_workload_travels_to_another_process_and_back():
    workload = Workload(ModelSpec("resnet20_cifar", widths=(4, 8, 16), dtype="float16"), 2, "infer", image_size=8)
    assert Workload.from_dict(json.loads(json.dumps(workload.to_dict()))) == workload


def test_the_input_is_the_networks_own_or_as_large_as_asked():
    assert Workload(ModelSpec("resnet50"), 2).input_shape == (224, 224, 3)
    assert Workload(ModelSpec("resnet50"), 2, image_size=64).input_shape == (64, 64, 3)
    assert Workload(ModelSpec("resnet50", in_channels=1, spatial_dims=1), 2).input_shape == (224, 1)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet50_v1", "resnet20_cifar", "resnet110_cifar"])
def test_the_classics_can_be_compared(name):
    network = peer_network(create_model(name, dtype="bfloat16", residual="zero_gamma").config)
    config = create_model(name).config
    assert {key: getattr(config, key) for key in network} == network


@pytest.mark.parametrize(
    ("name", "choices", "reason"),
    [
        ("resnet50d", {}, "stem deep, shortcut D"),
        ("resnet20_cifar", {"norm": "group", "norm_groups": 4}, "norm group"),
        ("resnet20_cifar", {"order": "pre"}, "order pre"),
        ("resnet20_cifar", {"drop_path": 0.1}, "drop_path 0.1"),
        ("resnext50_32x4d", {}, "groups 32, base_width 4"),
        ("seresnet50", {}, "attention se"),
        ("resnet20_cifar", {"dtype": "float16"}, "dtype float16"),
    ],
)
def test_other_networks_are_refused_with_what_they_have(name, choices, reason):
    with pytest.raises(UsageError, match=reason):
        peer_network(create_model(name, **choices).config)


def test_costs_of_an_image_by_hand():
    """Stem 3 to 4 and one basic block of 4 channels on 8x8, float32: three 3x3 convolutions and a linear layer."""
    model = ResNet(ResNetConfig((1,), (4,), stem="cifar", num_classes=5))
    macs = 64 * 9 * (3 * 4 + 4 * 4 + 4 * 4) + 4 * 5
    conv_in, conv_out, residual = 64 * (3 + 4 + 4), 64 * (4 + 4 + 4), 64 * 4
    costs = image_costs(model, (8, 8, 3), "train")
    assert costs == {"flops": 6 * macs, "bytes": 4 * (3 * conv_in + 11 * conv_out + 4 * residual)}
    costs = image_costs(model, (8, 8, 3), "infer")
    assert costs == {"flops": 2 * macs, "bytes": 4 * (conv_in + conv_out + residual)}
    half = ResNet(ResNetConfig((1,), (4,), stem="cifar", num_classes=5, dtype="bfloat16"))
    assert image_costs(half, (8, 8, 3), "infer")["bytes"] == 2 * (conv_in + conv_out + residual)


def test_elements_of_deep_stages_count_every_block():
    """Stages are condensed to two blocks for counting; the sum over blocks is linear from the second on."""
    sums = [count_elements(ResNet(ResNetConfig((n, n), (4, 8), stem="cifar")), (8, 8, 3)) for n in (2, 3, 4)]
    steps = [
        tuple(getattr(b, key) - getattr(a, key) for key in ("conv_in", "conv_out", "residual"))
        for a, b in itertools.pairwise(sums)
    ]
    assert steps == [(2 * 256 + 2 * 128, 2 * 256 + 2 * 128, 256 + 128)] * 2


def test_limits_of_this_machine_are_positive(monkeypatch):
    monkeypatch.setattr("resnet_jax.bench.limits.SIZES", {"cpu": (64, 2**16)})
    limits = measure_limits("float32")
    assert limits["flops"] > 0
    assert limits["bytes"] > 0
