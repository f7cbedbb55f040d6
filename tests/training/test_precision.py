"""bfloat16 and float16 against float32: what is computed in which dtype, and that the numbers agree."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.tasks.losses import cross_entropy
from resnet_jax.training.loss_scale import LossScaling, init_loss_scale
from resnet_jax.training.step import make_train_step
from tests.training.test_step import new_batch, new_state, small_model

HALVES = {"bfloat16": (None, 0.08, 0.01), "float16": (LossScaling(), 0.02, 0.002)}
"""dtype -> loss scale, relative L2 error of all gradients and of all batch statistics after one step. The unit roundoff
is 0.004 and 0.0005; batch norm and ReLUs that open or close make gradients some 15 times worse."""
TX = optax.sgd(0.05, momentum=0.9)


def first_state(dtype):
    model, scaling = small_model(dtype=dtype), HALVES[dtype][0] if dtype in HALVES else None
    state = new_state(model, TX)
    return model, scaling, state.replace(loss_scale=None if scaling is None else init_loss_scale(scaling))


@functools.cache
def run(dtype):
    """Twenty steps: the state after the first, and each loss."""
    model, scaling, state = first_state(dtype)
    step, states, losses = jax.jit(make_train_step(model, TX, loss_scaling=scaling)), [], []
    for _ in range(20):
        state, metrics = step(state, new_batch(32))
        assert not metrics["rejected"]
        states.append(state)
        losses.append(float(metrics["loss"]))
    return states[0], losses


def error(found, expected):
    """Relative L2 error over all leaves together."""
    difference = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), found, expected)
    return float(optax.tree.norm(difference) / optax.tree.norm(expected))


@pytest.mark.parametrize("dtype", HALVES)
def test_convolutions_are_computed_in_half_and_all_that_adds_up_in_float32(dtype):
    model, scaling, state = first_state(dtype)
    batch = new_batch()

    def forward(variables):
        return model.apply(variables, batch["image"], train=True, mutable=["batch_stats", "intermediates"],
                           capture_intermediates=True)  # fmt: skip

    logits, updates = jax.eval_shape(forward, state.variables)
    assert logits.dtype == jnp.float32
    assert cross_entropy(jnp.zeros(logits.shape, dtype), batch["label"]).dtype == jnp.float32
    paths = jax.tree_util.tree_leaves_with_path(updates["intermediates"])
    outputs = {jax.tree_util.keystr(path): leaf.dtype for path, leaf in paths}
    halves = {name for name, found in outputs.items() if found == jnp.dtype(dtype)}
    assert {name for name in outputs if "conv" in name or "norm" in name} <= halves
    assert len(halves) >= 6
    new, metrics = jax.eval_shape(make_train_step(model, TX, loss_scaling=scaling), state, batch)
    chex.assert_trees_all_equal_dtypes(new, state)
    for part in (new.params, new.batch_stats, new.opt_state, metrics):
        assert {leaf.dtype for leaf in jax.tree.leaves(part)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_and_statistics_agree_with_float32(dtype):
    """After one step of SGD from nothing the momentum is the gradient."""
    (expected, _), (found, _) = run("float32"), run(dtype)
    assert error(found.opt_state, expected.opt_state) < HALVES[dtype][1]
    assert error(found.batch_stats, expected.batch_stats) < HALVES[dtype][2]


@pytest.mark.parametrize("dtype", HALVES)
def test_a_short_training_takes_the_course_of_float32(dtype):
    """Twenty steps on one batch: each loss within 2 % of the first one, which falls to less than three fifths."""
    (_, expected), (_, losses) = run("float32"), run(dtype)
    assert expected[-1] < 0.6 * expected[0]
    np.testing.assert_allclose(losses, expected, rtol=0, atol=0.02 * expected[0])


def test_without_a_scale_float16_loses_small_gradients_and_with_one_it_does_not():
    """The loss divided by 2^14: gradients below float16's smallest number become 0."""

    def small(logits, labels):
        return cross_entropy(logits, labels) / 2**14

    model, scaling, state = first_state("float16")
    expected, _ = run("float32")
    errors = {}
    for name, rules in (("plain", None), ("scaled", scaling)):
        start = state.replace(loss_scale=None if rules is None else init_loss_scale(rules))
        new, _ = jax.jit(make_train_step(model, TX, loss=small, loss_scaling=rules))(start, new_batch(32))
        whole = jax.tree.map(lambda leaf: leaf * 2**14, new.opt_state)
        errors[name] = error(whole, expected.opt_state)
    assert errors["scaled"] < HALVES["float16"][1] < errors["plain"]
