"""Two towers: variables, counts, roles and rates of both, the temperature, and one side without the other."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig, abstract_variables, count, init_variables, two_towers
from resnet_jax.models.towers import MOST_SCALE, TEMPERATURE
from resnet_jax.training.lr_multipliers import distances, rate_factors
from resnet_jax.training.roles import count_by_role, mask

LEFT = ResNetConfig((1, 2), (4, 8), stem="cifar", num_classes=6, in_channels=1)
RIGHT = ResNetConfig((1,), (4,), stem="cifar", num_classes=6, in_channels=2, spatial_dims=1)
SHAPES = (8, 8, 1), (12, 2)


def inputs(count=3):
    keys = jax.random.split(jax.random.key(1))
    return {
        name: jax.random.normal(key, (count, *shape))
        for name, key, shape in zip(("image", "other"), keys, SHAPES, strict=True)
    }


def towers(left=LEFT, right=RIGHT) -> Any:
    return two_towers(left, right, SHAPES[1])


@functools.cache
def initial(model):
    return jax.jit(lambda key: init_variables(model, key, SHAPES[0]))(jax.random.key(0))


def test_its_variables_are_those_of_both_and_a_temperature():
    model = towers()
    variables = initial(model)
    shapes = abstract_variables(model, SHAPES[0])
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, shapes)
    assert set(variables["params"]) == {"left", "right", "log_scale"}
    counts, left, right = count(model, SHAPES[0]), count(ResNet(LEFT), SHAPES[0]), count(ResNet(RIGHT), SHAPES[1])
    assert counts.params == left.params + right.params + 1
    assert (counts.macs, counts.batch_stats) == (left.macs + right.macs, left.batch_stats + right.batch_stats)


def test_each_tower_is_a_network_by_itself():
    model = towers()
    variables = initial(model)
    outputs = model.apply(variables, inputs(), train=False)
    alone: Any = ResNet(RIGHT).apply(
        {name: tree["right"] for name, tree in variables.items()}, inputs()["other"], train=False
    )
    np.testing.assert_allclose(outputs["other"], alone / np.linalg.norm(alone, axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(outputs["scale"], np.full(3, 1 / TEMPERATURE), rtol=1e-6)


def test_a_missing_side_changes_nothing_of_the_other():
    model = towers()
    variables = initial(model)
    both, given = model.apply(variables, inputs(), train=False), inputs()
    for side in ("image", "other"):
        outputs = model.apply(variables, {side: given[side]}, train=False)
        assert set(outputs) == {side, "scale"}
        np.testing.assert_array_equal(outputs[side], both[side])
    with pytest.raises(UsageError, match="inputs called image and other, got left"):
        model.apply(variables, {"left": given["image"]}, train=False)


def test_the_scale_is_at_most_100_and_comes_back():
    model = towers()
    variables = initial(model)

    def scale(log_scale, sign):
        params = {**variables["params"], "log_scale": log_scale}
        return sign * model.apply({**variables, "params": params}, inputs(), train=False)["scale"][0]

    above = jnp.float32(math.log(MOST_SCALE) + 0.5)
    assert float(scale(above, 1.0)) == pytest.approx(MOST_SCALE, rel=1e-5)
    assert float(jax.grad(scale)(above, 1.0)) > 0.0  # a descent comes down
    assert float(jax.grad(scale)(above, -1.0)) == 0.0  # and goes no further up


def test_roles_of_both_and_no_decay_of_the_temperature():
    params = abstract_variables(towers(), SHAPES[0])["params"]
    assert count_by_role(params)["temperature"] == 1
    assert count_by_role(params)["head"] == 8 * 6 + 4 * 6
    decayed = mask(params, ("conv", "head", "dense"))
    assert not decayed["log_scale"]
    assert decayed["left"]["head"]["kernel"]
    assert decayed["right"]["stem"]["conv"]["kernel"]


def test_layer_decay_counts_each_tower_from_its_own_top():
    params = abstract_variables(towers(), SHAPES[0])["params"]
    found = distances(params)
    assert (found["left"]["stem"]["conv"]["kernel"], found["right"]["stem"]["conv"]["kernel"]) == (4, 2)
    assert found["left"]["head"]["kernel"] == found["right"]["head"]["bias"] == found["log_scale"] == 0
    factors = rate_factors(params, role_rates=[("temperature", 0.1)], layer_decay=0.5)
    assert factors["right"]["stage1"]["block0"]["branch"]["conv1"]["kernel"] == 0.5
    assert factors["log_scale"] == 0.1


@pytest.mark.parametrize("residual", ["fixup", "skipinit"])
def test_embeddings_have_a_direction_from_the_start(residual):
    config = ResNetConfig((1,), (4,), stem="cifar", num_classes=6, in_channels=1, norm="none", residual=residual)
    model = towers(config)
    variables = initial(model)
    outputs = model.apply(variables, inputs(), train=False)
    np.testing.assert_allclose(np.linalg.norm(outputs["image"], axis=1), 1.0, rtol=1e-5)
    assert set(count_by_role(variables["params"])) >= {"scalar", "temperature"}  # every path has a role


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_classes": 5}, "the same num_classes: model has 6, other.model 5"),
        ({"dtype": "bfloat16"}, "the same dtype: model has float32, other.model bfloat16"),
    ],
)
def test_towers_that_do_not_go_together_are_refused(changes, said):
    with pytest.raises(UsageError, match=said):
        towers(LEFT, dataclasses.replace(RIGHT, **changes))
