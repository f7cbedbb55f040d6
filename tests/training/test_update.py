"""The update in its three forms: the same numbers, and the same rejection."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.training import update
from resnet_jax.training.ema import Averaging
from resnet_jax.training.optimizers import OptimConfig, make_optimizer
from resnet_jax.training.packing import MEMBERS, ElementwiseTransformation, Packing
from resnet_jax.training.placement import Placement, traced_for
from resnet_jax.training.population import with_rate_scale
from resnet_jax.training.state import TrainState

OPTIMIZERS = {
    "sgd": OptimConfig("sgd", weight_decay=1e-2, momentum=0.9, nesterov=True, clip_norm=2.0),
    "frozen": OptimConfig("sgd", weight_decay=1e-2, freeze=("stem",), role_rates=(("norm_scale", 0.5),)),
    "adamw": OptimConfig("adamw", learning_rate=1e-2, weight_decay=1e-2, l1=1e-3),
}


def a_state(seed=0):
    """Return a state of two blocks, moved a little by gradients, and the next gradients and statistics."""
    rng = np.random.default_rng(seed)

    def block():
        return {
            "branch": {
                "conv1": {"kernel": rng.normal(size=(3, 3, 2, 4))},
                "norm1": {"scale": rng.normal(size=4), "bias": rng.normal(size=4)},
            }
        }

    params = {
        "stem": {"conv": {"kernel": rng.normal(size=(3, 3, 3, 2))}},
        "stage1": {"block0": block(), "block1": block()},
        "head": {"kernel": rng.normal(size=(4, 5)), "bias": rng.normal(size=5)},
    }
    stats = {f"norm{i}": {"mean": rng.normal(size=4), "var": rng.normal(size=4) ** 2} for i in range(3)}
    params, stats = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, stats))
    grads, new = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), (params, stats))
    return params, stats, grads, new


def optimizer(name, params):
    tx, _ = make_optimizer(OPTIMIZERS[name], params, steps_per_epoch=10, total_steps=100)
    assert isinstance(tx, ElementwiseTransformation)
    return tx


def parts(tx, params, stats, grads):
    _, opt_state = tx.update(grads, tx.init(params), params)
    average = jax.tree.map(lambda a: a + 1, {"params": params, "batch_stats": stats})
    return update._Parts(params, stats, opt_state, average)


def all_forms(tx, given, averaging: float | Averaging = 0.9):
    return [jax.jit(lambda *a, form=form: form(tx, averaging, *a))(*given) for form in FORMS]


FORMS = update._leaf_by_leaf, update._packed, update._vectors_packed


@pytest.mark.parametrize("name", [pytest.param("sgd", marks=pytest.mark.slow), "frozen", "adamw"])
@pytest.mark.slow
def test_all_forms_give_the_same(name):
    params, stats, grads, new = a_state()
    tx = optimizer(name, params)
    value, count = jnp.float32(1.0), jnp.int32(3)
    one, *others = all_forms(tx, (parts(tx, params, stats, grads), grads, new, value, count), Averaging(0.9, "none"))
    assert bool(one[1])
    for other in others:
        assert bool(other[1])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), one, other)
        assert jax.tree.structure(one) == jax.tree.structure(other)


@pytest.mark.parametrize("what", ["loss", "gradient", "huge gradient", "statistic", "update that overflows"])
def test_a_rejected_update_keeps_every_bit(what):
    params, stats, grads, new = a_state()
    tx = optimizer("sgd", params)
    old = parts(tx, params, stats, grads)
    value = jnp.float32(jnp.nan if what == "loss" else 1.0)
    if what == "gradient":
        grads["head"]["bias"] = grads["head"]["bias"].at[3].set(jnp.inf)
    if what == "huge gradient":
        grads["stem"]["conv"]["kernel"] *= 1e30
    if what == "statistic":
        new["norm2"]["var"] = new["norm2"]["var"].at[0].set(jnp.nan)
    if what == "update that overflows":
        branch = params["stage1"]["block1"]["branch"]
        branch["norm1"]["bias"] = branch["norm1"]["bias"].at[2].set(3.4e38)
        tx = ElementwiseTransformation.of(optax.sgd(-1e38), tx.labels)
        old = parts(tx, params, stats, grads)
        grads["stage1"]["block1"]["branch"]["norm1"]["bias"] = jnp.full(4, 1e1)
    for kept, finite, _ in all_forms(tx, (old, grads, new, value, jnp.int32(3))):
        assert not bool(finite)
        jax.tree.map(np.testing.assert_array_equal, kept, old)


@pytest.mark.parametrize("form", FORMS)
def test_members_of_a_population_are_rejected_alone(form):
    params, stats, grads, new = a_state()
    tx = with_rate_scale(optimizer("sgd", params))
    assert isinstance(tx, ElementwiseTransformation)
    old = parts(tx, params, stats, grads)
    given = jax.tree.map(lambda a: jnp.stack([a, a]), (old, grads, new, jnp.float32(1.0), jnp.int32(3)))
    given[1]["head"]["bias"] = given[1]["head"]["bias"].at[1, 0].set(jnp.nan)
    kept, finite, _ = jax.jit(jax.vmap(lambda *a: form(tx, 0.9, *a)))(*given)
    assert finite.tolist() == [True, False]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b), kept, old)


def lowered(tx, platform):
    params, stats, grads, new = a_state()
    key = jax.random.key(0)
    state = TrainState(jnp.int32(0), params, stats, tx.init(params), key)

    def step(state):
        return update.advance(tx, state, grads, new, jnp.float32(1.0), None)

    return jax.jit(step).trace(state).lower(lowering_platforms=(platform,)).as_text()


PLATFORMS = ("cpu", "tpu", "cuda")


def test_a_gpu_packs_all_a_tpu_vectors_and_only_what_is_elementwise_and_whole():
    params = a_state()[0]
    tx = optimizer("sgd", params)
    assert "concatenate" in lowered(tx, "cuda")
    assert "optimization_barrier" not in lowered(tx, "cpu")
    assert "optimization_barrier" not in lowered(tx, "tpu")
    packed = {
        platform: set(re.findall(r"concatenate.*-> tensor<(\d+)xf32>", lowered(tx, platform))) for platform in PLATFORMS
    }
    assert packed["cpu"] == set()
    assert packed["tpu"] == {"21"}, "four scales and biases of 4, a bias of 5"
    assert packed["cuda"] > packed["tpu"]
    lars, _ = make_optimizer(OptimConfig("lars"), params, steps_per_epoch=1, total_steps=9)
    clipped, _ = make_optimizer(OptimConfig("sgd", agc=0.01), params, steps_per_epoch=1, total_steps=9)
    for other in (lars, clipped, optax.sgd(0.1)):
        assert "optimization_barrier" not in lowered(other, "cuda")
    with traced_for(Placement.of(jax.devices()[:2], kind="fsdp")):
        assert "optimization_barrier" not in lowered(tx, "cuda")


def test_packing_takes_trees_that_hold_the_tree_and_leaves_others_alone():
    tree = {f"w{i:03}": jnp.full((2, 1), float(i)) for i in range(2 * MEMBERS + 1)}
    packing = Packing.of(tree, jax.tree.map(lambda _: "all", tree))
    assert [len(group) for group in packing.groups] == [30, 30, 29]
    state = {"trace": tree, "count": jnp.int32(3), "w000": jnp.zeros(7)}
    state = {"a": None, **state, "z": {"nothing": None, "trace": tree}}
    packed = packing.pack(state)
    assert sorted(leaf.size for leaf in jax.tree.leaves(packed) if leaf.size) == [1, 7, 58, 58, 60, 60, 60, 60]
    jax.tree.map(np.testing.assert_array_equal, packing.unpack(packed, state), state)
