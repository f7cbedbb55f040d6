"""A head of one's own: registered by name, given every map and the input's size, known by roles and learning rates."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig, create_model
from resnet_jax.models.heads.registry import HEADS, register_head
from resnet_jax.training.lr_multipliers import distances
from resnet_jax.training.roles import count_by_role
from tests.tools import initialize

TINY = ResNetConfig((1, 1), (4, 8), stem="cifar", num_classes=3)


class PerPixel(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, maps, *, size, train):
        logits = nn.Conv(self.classes, (1, 1), name="classifier_pixels")(maps["final"])
        full = jax.image.resize(logits, (len(logits), *size, self.classes), "nearest")
        return {"pixels": full, "image": nn.Dense(self.classes, name="classifier")(maps["pooled"])}


@pytest.fixture
def per_pixel():
    @register_head("per_pixel")
    def rule(config):
        return PerPixel(config.num_classes, name="head")

    yield "per_pixel"
    HEADS.pop("per_pixel")


def test_a_head_of_ones_own_gets_all_maps_and_the_size(per_pixel):
    model = ResNet(dataclasses.replace(TINY, head=per_pixel))
    variables = initialize(model, jnp.ones((1, 6, 10, 3)))
    outputs = model.apply(variables, jnp.ones((2, 6, 10, 3)), train=False)
    assert {name: each.shape for name, each in outputs.items()} == {"pixels": (2, 6, 10, 3), "image": (2, 3)}
    assert count_by_role(variables["params"])["head"] == 2 * 8 * 3  # both last layers, and nothing else
    assert set(jax.tree.leaves(distances(variables["params"])["head"])) == {0}


def test_without_outputs_there_is_no_head(per_pixel):
    model = ResNet(dataclasses.replace(TINY, head=per_pixel, num_classes=0))
    assert "head" not in initialize(model, jnp.ones((1, 6, 6, 3)))["params"]


def test_names_are_checked():
    with pytest.raises(UsageError, match="unknown head 'fpm'"):
        create_model("resnet18", head="fpm")
    with pytest.raises(UsageError, match="there is a head called 'classifier' already"):
        register_head("classifier")
