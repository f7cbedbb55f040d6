"""Stacked and listed variables: converters that undo each other, for arrays, shapes, states and other trees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, strategies as st

from resnet_jax.models import create_model
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.layout import is_stacked, like, listed_paths, stack, stacks, unstack
from tests.tools import paths, random_variables

SMALL = {"stage_sizes": (3, 2, 10), "widths": (4, 4, 8)}


def model(execution, **choices):
    return create_model("resnet20_cifar", execution=execution, **SMALL, **choices)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("execution", ["auto", "scan", "unroll"])
def test_there_and_back_is_the_identity(execution):
    listed = random_variables(model("unroll"), (8, 8, 3))
    there = stack(listed, execution)
    assert paths(there) == paths(abstract_variables(model(execution), (8, 8, 3)))
    same(unstack(there), listed)
    for other in ("auto", "scan", "unroll"):
        same(stack(stack(there, other), execution), there)
        same(like(stack(listed, other), there), there)


def test_which_stages_are_stacked():
    names = {e: set(abstract_variables(model(e), (8, 8, 3))["params"]["stage3"]) for e in ("auto", "scan", "unroll")}
    assert names["auto"] == names["scan"] == {"block0", "blocks"}
    assert names["unroll"] == {f"block{index}" for index in range(10)}
    assert "blocks" in abstract_variables(model("scan"), (8, 8, 3))["params"]["stage1"]
    assert "blocks" not in abstract_variables(model("auto"), (8, 8, 3))["params"]["stage1"]
    assert [stacks("auto", n) for n in (1, 8, 9)] == [False, False, True]
    assert [stacks("scan", n) for n in (1, 2, 3)] == [False, False, True]


def test_block_number_is_the_place_in_the_stack():
    """Ten blocks: as strings, block10 would come before block2."""
    stage = {f"block{index}": {"bias": np.full(2, index)} for index in range(12)}
    stacked = stack({"stage1": stage})["stage1"]["blocks"]["bias"]
    assert stacked.tolist() == [[index, index] for index in range(1, 12)]


@given(st.permutations(range(12)))
def test_the_order_of_the_dictionary_does_not_matter(order):
    stage = {f"block{index}": {"bias": np.full(1, index)} for index in order}
    assert stack({"stage1": stage})["stage1"]["blocks"]["bias"][:, 0].tolist() == list(range(1, 12))


def test_optimizer_states_and_shapes_are_converted_too():
    variables = random_variables(model("unroll"), (8, 8, 3))
    state = optax.adam(0.1).init(variables["params"])
    stacked = stack(state)
    assert stacked[0].mu["stage3"]["blocks"]["branch"]["conv1"]["kernel"].shape == (9, 3, 3, 8, 8)
    same(unstack(stacked), state)
    shapes = jax.eval_shape(lambda: variables)
    assert jax.tree.map(jnp.shape, unstack(stack(shapes))) == jax.tree.map(jnp.shape, variables)


def test_behind_the_members_of_a_population():
    """Three members: taken for blocks, they would be too few to stay stacked."""
    runs = [random_variables(model("unroll"), (8, 8, 3), seed=seed) for seed in range(3)]
    listed = jax.tree.map(lambda *leaves: np.stack(leaves), *runs)
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *(stack(run) for run in runs))
    same(stack(listed, axis=1), expected)
    same(stack(expected, axis=1), expected)
    same(stack(expected, "unroll", axis=1), listed)
    same(like(expected, listed, axis=1), listed)
    shapes = jax.eval_shape(lambda: listed)
    assert jax.tree.map(jnp.shape, stack(shapes, axis=1)) == jax.tree.map(jnp.shape, expected)


def test_a_tree_that_is_frozen_in_parts_stays_listed():
    stage = {"block0": 0, **{f"block{index}": {"w": np.ones(1)} if index < 5 else {} for index in range(1, 12)}}
    assert stack({"stage1": stage}) == {"stage1": stage}


@pytest.mark.parametrize(
    "tree",
    [
        {"blocks": {"conv1": {"kernel": np.ones((3, 3, 1, 1))}}},  # a module of that name, and no stack
        {"block0": {"w": np.ones(2)}, "block1": {"w": np.ones(2)}, "norm": {"scale": np.ones(2)}},
        {"stage1": {f"block{index}x": np.ones(1) for index in range(20)}},
        {"net": {f"block{index}": {"kernel": np.ones((index + 1, index + 2))} for index in range(20)}},  # not equal
    ],
)
def test_modules_of_others_are_left_alone(tree):
    same(stack(tree, "scan"), tree)
    same(unstack(tree), tree)


def test_paths():
    assert is_stacked("net/stage2/blocks/branch/gain")
    assert not is_stacked("blocks/conv1/kernel")
    assert not is_stacked("stage2/block1/branch/gain")
    assert listed_paths("net/stage2/blocks/branch/gain", 2) == [
        "net/stage2/block1/branch/gain",
        "net/stage2/block2/branch/gain",
    ]
