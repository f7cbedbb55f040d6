from __future__ import annotations

import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models import create_model
from resnet_jax.weights.names import MODULES, detect, foreign_name, name_map


def norm(name: str) -> list[str]:
    return [f"{name}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")]


def torchvision_names(stages: list[int], convs: int, shortcut: str, head: str, projected: list[int]) -> set[str]:
    """Return the state dict's names as the peers' constructors make them."""
    names = ["conv1.weight", *norm("bn1"), f"{head}.weight", f"{head}.bias"]
    for stage, blocks in enumerate(stages, 1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}"
            for i in range(1, convs + 1):
                names += [f"{prefix}.conv{i}.weight", *norm(f"{prefix}.bn{i}")]
            if block == 0 and stage in projected:
                names += [f"{prefix}.{shortcut}.0.weight", *norm(f"{prefix}.{shortcut}.1")]
    return set(names)


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("resnet18", "torchvision", torchvision_names([2, 2, 2, 2], 2, "downsample", "fc", [2, 3, 4])),
        ("resnet50", "torchvision", torchvision_names([3, 4, 6, 3], 3, "downsample", "fc", [1, 2, 3, 4])),
        ("resnet20_cifar", "cifar", torchvision_names([3, 3, 3], 2, "shortcut", "linear", [])),
        ("resnet20_cifar_b", "cifar", torchvision_names([3, 3, 3], 2, "shortcut", "linear", [2, 3])),
    ],
)
def test_names_are_the_peers_and_a_bijection(name, format, expected):
    names = name_map(create_model(name), format)
    assert set(names.values()) == expected
    assert len(set(names.values())) == len(names)
    assert detect(expected, names) == format


def test_single_names():
    assert foreign_name("params/stage1/block11/branch/norm2/scale", "cifar") == "layer1.11.bn2.weight"
    assert (
        foreign_name("batch_stats/stage4/block0/shortcut/norm/var", "torchvision")
        == "layer4.0.downsample.1.running_var"
    )


@pytest.mark.parametrize("path", ["params/stage1/block0/branch/se/kernel", "params/head/gain", "cache/head/kernel"])
@pytest.mark.parametrize("format", MODULES)
def test_what_a_format_does_not_have(path, format):
    with pytest.raises(UsageError, match=f"weight format '{format}' has no name for {path}"):
        foreign_name(path, format)


def test_unknown_format():
    with pytest.raises(UsageError, match="unknown weight format 'torchvison'; did you mean 'torchvision'"):
        name_map(create_model("resnet18"), "torchvison")
