"""Networks without some channels and blocks are exactly the full ones in which these are zero."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from resnet_jax.deploy.prune.blocks import drop_blocks, least_needed, removable_blocks, silence_blocks
from resnet_jax.deploy.prune.channels import keep_channels, layers_of, silence_channels
from resnet_jax.deploy.prune.choose import choose_channels
from resnet_jax.deploy.prune.scores import channel_scores
from resnet_jax.errors import UsageError
from resnet_jax.models import create_model
from resnet_jax.models.count import count
from resnet_jax.models.resnet import ResNet
from tests.tools import random_variables

IMAGES = np.random.default_rng(3).standard_normal((2, 8, 8, 3)).astype(np.float32)


def small(name: str, **choices) -> ResNet:
    config = create_model(name).config
    few = {"stage_sizes": (2, 3), "widths": (6, 8), "stem_width": 6, "num_classes": 5}
    return ResNet(dataclasses.replace(config, **{**few, **choices}))


NETWORKS = {
    "post": ("resnet20_cifar", {}),
    "pre": ("preact20_cifar", {}),
    "fixup": ("fixup_resnet20_cifar", {}),
    "bottleneck, SE": ("resnet50", {"stem": "cifar", "attention": "se", "se_divisor": 1}),
    "rezero, in a loop": ("rezero_resnet20_cifar", {"execution": "scan", "stage_sizes": (2, 4)}),
}
FEW = ("post", "bottleneck, SE")
ALL = [pytest.param(name, marks=[] if name in FEW else pytest.mark.slow) for name in NETWORKS]


def outputs(model: ResNet, variables) -> np.ndarray:
    return np.asarray(jax.jit(lambda v: model.apply(v, IMAGES, train=False))(variables))


def some(name: str) -> tuple[ResNet, dict]:
    base, choices = NETWORKS[name]
    model = small(base, **choices)
    return model, random_variables(model, IMAGES.shape[1:])


@pytest.mark.parametrize("name", ALL)
def test_without_channels_it_is_the_network_that_reads_zeros_of_them(name):
    model, variables = some(name)
    rng = np.random.default_rng(0)
    kept = [
        np.sort(rng.permutation(layer.channels)[: rng.integers(1, layer.channels)]) for layer in layers_of(model.config)
    ]
    smaller, own = keep_channels(model, variables, kept)
    whole, found = outputs(model, silence_channels(model, variables, kept)), outputs(smaller, own)
    np.testing.assert_allclose(found, whole, atol=1e-5 * np.abs(whole).max())
    assert np.abs(outputs(model, variables) - whole).max() > 1e-3 * np.abs(whole).max(), "nothing was removed"
    assert count(smaller, (8, 8, 3)).params == sum(leaf.size for leaf in jax.tree.leaves(own["params"]))


@pytest.mark.parametrize("name", ALL)
def test_without_a_block_it_is_the_network_whose_branch_is_zero(name):
    model, variables = some(name)
    gone = [removable_blocks(model.config)[-1].depth]
    smaller, own = drop_blocks(model, variables, gone)
    whole = outputs(model, silence_blocks(model, variables, gone))
    np.testing.assert_allclose(outputs(smaller, own), whole, atol=1e-5 * np.abs(whole).max())
    assert smaller.config.num_blocks == model.config.num_blocks - 1
    assert np.abs(outputs(model, variables) - whole).max() > 1e-3 * np.abs(whole).max(), "nothing was removed"


def test_half_of_the_channels_are_half_of_what_branches_compute():
    model = create_model("resnet20_cifar")
    layers = layers_of(model.config)
    variables = random_variables(model, (32, 32, 3))
    kept = choose_channels(channel_scores(model, variables, "norm_scale"), 0.5)
    smaller, _ = keep_channels(model, variables, kept)
    before, after = count(model, (32, 32, 3)), count(smaller, (32, 32, 3))
    assert [len(one) for one in kept] == [layer.channels // 2 for layer in layers]
    stem, head = 32 * 32 * 27 * 16, 64 * 10
    assert 2 * (after.macs - stem - head) == before.macs - stem - head  # no other layers: shortcuts are of kind A


def test_channels_with_the_largest_scales_stay():
    model, variables = some("post")
    scores = channel_scores(model, variables, "norm_scale")
    scale = np.asarray(variables["params"]["stage1"]["block0"]["branch"]["norm1"]["scale"])
    np.testing.assert_allclose(scores[0], np.abs(scale))
    kept = choose_channels(scores, 0.5, min_channels=1, multiple_of=1)
    assert set(kept[0]) == set(np.argsort(-np.abs(scale))[:3])


def test_activations_are_what_the_next_convolution_reads():
    model, variables = some("post")
    found = channel_scores(model, variables, "activation", images=[IMAGES])
    kept = [np.arange(layer.channels) for layer in layers_of(model.config)]
    for layer, scores in enumerate(found):
        dead = np.flatnonzero(scores == 0)
        live = np.flatnonzero(scores > 0)
        assert len(live)
        trial = [*kept[:layer], live, *kept[layer + 1 :]]
        if len(dead):  # channels that are never on change nothing
            np.testing.assert_allclose(
                outputs(*keep_channels(model, variables, trial)), outputs(model, variables), atol=1e-4
            )
    with pytest.raises(UsageError, match="images"):
        channel_scores(model, variables, "activation")


def test_blocks_go_by_the_loss_without_them():
    model, variables = some("post")
    losses = {0: 3.0, 1: 1.0, 3: 2.0, 4: 5.0}

    def loss(silenced) -> float:
        gone = [
            depth
            for depth, (stage, block) in {0: (1, 0), 1: (1, 1), 3: (2, 1), 4: (2, 2)}.items()
            if not np.any(np.asarray(silenced["params"][f"stage{stage}"][f"block{block}"]["branch"]["conv2"]["kernel"]))
        ]
        return sum(losses[depth] for depth in gone)

    assert least_needed(model, variables, 3, loss) == ((1, 3, 4), [1.0, 3.0, 8.0])
    with pytest.raises(UsageError, match="4 blocks cannot be removed, only 3"):
        least_needed(model, variables, 4, loss)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"norm": "group", "norm_groups": 2}, "norm group normalizes channels together"),
        ({"groups": 2, "base_width": 64, "block": "bottleneck"}, "channels in 2 groups"),
        ({"weight_standardization": "standard"}, "standardizes a filter over its input channels"),
    ],
)
def test_what_depends_on_other_channels_is_refused(choices, said):
    with pytest.raises(UsageError, match=said):
        layers_of(small("resnet20_cifar", **choices).config)


def test_channels_that_are_not_there_are_refused():
    model, variables = some("post")
    kept = [np.arange(layer.channels) for layer in layers_of(model.config)]
    with pytest.raises(UsageError, match=r"stage1/block0/branch/conv1 must be ascending numbers in 0\.\.5"):
        keep_channels(model, variables, [np.asarray([2, 6]), *kept[1:]])
