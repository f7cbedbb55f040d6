"""Batch normalization against its definition."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.errors import UsageError
from resnet_jax.models import BatchNorm, GroupNorm
from resnet_jax.models.norm import Affine


def run(x, *, train=True, **choices):
    norm = BatchNorm(**choices)
    variables = norm.init(jax.random.key(0), x, train=False)
    if not train:
        return norm.apply(variables, x, train=False), variables
    return norm.apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.fixture
def x():
    return 3.0 + 2.0 * jax.random.normal(jax.random.key(1), (4, 5, 5, 3))


def test_train_mode_normalizes_by_the_batch(x):
    y, _ = run(x)
    flat = np.asarray(x, np.float64).reshape(-1, 3)
    expected = (np.asarray(x) - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_one_step_moves_the_running_averages_by_one_minus_momentum(x, momentum):
    """The convention is Flax's: 0.9 keeps 90 % of the old value (PyTorch calls that 0.1)."""
    _, updates = run(x, momentum=momentum)
    flat = np.asarray(x, np.float64).reshape(-1, 3)
    stats = updates["batch_stats"]
    np.testing.assert_allclose(stats["mean"], (1 - momentum) * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], momentum + (1 - momentum) * flat.var(0), rtol=1e-5)


def test_eval_mode_uses_the_running_averages_and_needs_nothing_mutable(x):
    y, variables = run(x, train=False)
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5), rtol=1e-6)
    y, updates = BatchNorm().apply(variables, x, train=False, mutable=["batch_stats"])
    np.testing.assert_array_equal(updates["batch_stats"]["mean"], variables["batch_stats"]["mean"])
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_the_mode_is_never_inferred(x):
    with pytest.raises(TypeError, match="train"):
        BatchNorm().init(jax.random.key(0), x)
    _, variables = run(x, train=False)
    with pytest.raises(ValueError, match="mutable="):
        BatchNorm().apply(variables, x, train=True)


def test_variance_does_not_cancel_far_from_zero():
    """Mean 100, deviation 0.01: E[x^2] - E[x]^2 in float32 gives 0 or thirty times too much."""
    x = 100.0 + 0.01 * jax.random.normal(jax.random.key(0), (64, 4, 4, 3))
    _, updates = run(x, momentum=0.0)
    exact = np.asarray(x, np.float64).reshape(-1, 3).var(0)
    np.testing.assert_allclose(updates["batch_stats"]["var"], exact, rtol=1e-3)


def test_bfloat16_input_has_float32_statistics():
    x = jax.random.normal(jax.random.key(0), (256, 4, 4, 2)).astype(jnp.bfloat16)
    y, updates = run(x, momentum=0.0)
    exact = np.asarray(x, np.float64).reshape(-1, 2)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(updates["batch_stats"]["mean"], exact.mean(0), atol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], exact.var(0), rtol=1e-5)


def test_equals_flax_in_values_and_gradients(x):
    ours, theirs = BatchNorm(), nn.BatchNorm(momentum=0.9, use_running_average=False)
    variables = ours.init(jax.random.key(0), x, train=False)
    params = {"scale": jnp.array([1.0, -2.0, 0.5]), "bias": jnp.array([0.1, 0.2, -0.3])}

    def value(apply, params, x):
        y, updates = apply({**variables, "params": params}, x)
        return jnp.sum(jnp.sin(y)), updates

    def our_apply(v, x):
        return ours.apply(v, x, train=True, mutable=["batch_stats"])

    def their_apply(v, x):
        return theirs.apply(v, x, mutable=["batch_stats"])

    results = [
        jax.value_and_grad(lambda p, x, a=apply: value(a, p, x), argnums=(0, 1), has_aux=True)(params, x)
        for apply in (our_apply, their_apply)
    ]
    for ours_leaf, theirs_leaf in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(ours_leaf, theirs_leaf, rtol=1e-4, atol=1e-5)


def test_initialization_leaves_the_statistics_at_their_start(x):
    variables = BatchNorm().init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0.0)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], 1.0)


def by_hand(x, parts):
    """Normalize each part of the batch by its own statistics, in a loop; return it and the mean and variance of all."""
    x = np.asarray(x, np.float64)
    pieces = [(part - part.mean((0, 1, 2))) / np.sqrt(part.var((0, 1, 2)) + 1e-5) for part in np.split(x, parts)]
    return np.concatenate(pieces), x.mean((0, 1, 2)), x.var((0, 1, 2))


@pytest.fixture
def drifting():
    """Eight examples whose means differ much, so that the parts' statistics do."""
    x = jax.random.normal(jax.random.key(1), (8, 3, 3, 2))
    return x + 3.0 * jnp.arange(8.0).reshape(8, 1, 1, 1)


@pytest.mark.parametrize(
    ("choices", "parts"),
    [
        ({"statistics": "ghost", "ghost_size": 2}, 4),
        ({"statistics": "ghost", "ghost_size": 8}, 1),
        ({"statistics": "ghost", "ghost_size": 1}, 8),
        ({"statistics": "device", "devices": 2}, 2),
        ({"statistics": "device"}, 1),
        ({}, 1),
    ],
)
def test_scopes_against_a_loop_over_their_parts(drifting, choices, parts):
    """Normalized part by part; the running averages go to the mean and variance of the whole batch."""
    y, updates = run(drifting, momentum=0.5, **choices)
    expected, mean, var = by_hand(drifting, parts)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.5 * mean, rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.5 + 0.5 * var, rtol=1e-5)


def test_gradients_of_ghost_batches_are_those_of_separate_calls(drifting):
    def loss(x, **choices):
        return jnp.sum(run(x, **choices)[0][..., 1] ** 3)

    whole = jax.jit(jax.grad(lambda x: loss(x, statistics="ghost", ghost_size=4)))(drifting)
    gradient = jax.jit(jax.grad(loss))
    parts = [gradient(part) for part in jnp.split(drifting, 2)]
    np.testing.assert_allclose(whole, jnp.concatenate(parts), rtol=1e-4, atol=1e-4)


def test_frozen_statistics_normalize_and_stay(drifting):
    norm = BatchNorm(statistics="frozen")
    variables = norm.init(jax.random.key(0), drifting, train=False)
    stats = {"mean": jnp.asarray([1.0, 2.0]), "var": jnp.asarray([4.0, 9.0])}
    variables = {**variables, "batch_stats": stats}
    y, updates = norm.apply(variables, drifting, train=True, mutable=["batch_stats"])
    expected = (np.asarray(drifting) - [1.0, 2.0]) / np.sqrt(np.asarray([4.0, 9.0]) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(updates["batch_stats"]["mean"], stats["mean"])
    np.testing.assert_array_equal(norm.apply(variables, drifting, train=False), y)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"statistics": "ghost", "ghost_size": 3}, "8 examples cannot be cut into ghost batches of 3"),
        ({"statistics": "device", "devices": 3}, "8 examples do not divide over 3 devices"),
    ],
)
def test_batches_that_cannot_be_cut_are_refused(drifting, choices, message):
    with pytest.raises(UsageError, match=message):
        run(drifting, **choices)


def test_the_unbiased_running_variance_is_pytorchs():
    """Four batches, against torch.nn.BatchNorm2d (tests/reference)."""
    stored = np.load(Path(__file__).parents[1] / "reference" / "torch.npz")
    norm = BatchNorm(running_variance="unbiased")
    batches = jnp.asarray(stored["norm/inputs"]).transpose(0, 1, 3, 4, 2)
    variables = norm.init(jax.random.key(0), batches[0], train=False)
    plain = BatchNorm().apply(variables, batches[0], train=True, mutable=["batch_stats"])[0]
    np.testing.assert_array_equal(norm.apply(variables, batches[0], train=True, mutable=["batch_stats"])[0], plain)
    for row, batch in enumerate(batches):
        _, updates = norm.apply(variables, batch, train=True, mutable=["batch_stats"])
        variables |= updates
        np.testing.assert_allclose(updates["batch_stats"]["mean"], stored["norm/mean"][row], rtol=2e-6)
        np.testing.assert_allclose(updates["batch_stats"]["var"], stored["norm/var"][row], rtol=2e-6)


@pytest.mark.parametrize(
    "choices", [{}, {"statistics": "ghost", "ghost_size": 2}, {"statistics": "device", "devices": 2}]
)
def test_whatever_the_scope_it_is_unbiased_over_the_whole_batch(drifting, choices):
    _, updates = run(drifting, momentum=0.5, running_variance="unbiased", **choices)
    expected = np.asarray(drifting, np.float64).reshape(-1, 2).var(0, ddof=1)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.5 + 0.5 * expected, rtol=1e-5)


@pytest.mark.parametrize("mapped", ["jit", "pmap", "shard_map"])
@pytest.mark.parametrize("statistics", ["global", "device"])
def test_it_is_unbiased_over_the_batch_of_all_devices(mapped, statistics):
    x = jax.random.normal(jax.random.key(1), (8, 1, 2, 2)) + 3.0 * jnp.arange(8.0).reshape(8, 1, 1, 1)
    variables = BatchNorm().init(jax.random.key(0), x, train=False)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    axis = {"devices": 8} if mapped == "jit" else {"axis_name": "data"}
    norm = BatchNorm(momentum=0.0, statistics=statistics, running_variance="unbiased", **axis)

    def apply(x):
        return norm.apply(variables, x, train=True, mutable=["batch_stats"])[1]["batch_stats"]["var"]

    if mapped == "pmap":
        var = jax.pmap(apply, axis_name="data")(x.reshape(8, 1, 1, 2, 2))[3]
    elif mapped == "shard_map":
        var = jax.jit(jax.shard_map(apply, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P()))(x)
    else:
        var = jax.jit(apply)(jax.device_put(x, jax.NamedSharding(mesh, jax.P("data"))))
    np.testing.assert_allclose(var, np.asarray(x, np.float64).reshape(-1, 2).var(0, ddof=1), rtol=1e-5)


def test_one_value_has_no_unbiased_variance():
    with pytest.raises(UsageError, match="one value per channel has no unbiased variance; use more examples"):
        run(jnp.ones((1, 1, 1, 3)), running_variance="unbiased")
    run(jnp.ones((1, 1, 1, 3)))  # as ever: variance 0
    run(jnp.ones((1, 1, 1, 3)), train=False, running_variance="unbiased")


@pytest.mark.parametrize("mapped", ["pmap", "shard_map"])
@pytest.mark.parametrize("statistics", ["global", "device", "ghost"])
def test_scopes_on_eight_devices(mapped, statistics):
    """Under jit with a sharded batch and under a mapped axis: the same numbers as the loop on one device."""
    x = jax.random.normal(jax.random.key(1), (16, 3, 3, 2)) + 3.0 * jnp.arange(16.0).reshape(16, 1, 1, 1)
    parts = {"global": 1, "device": 8, "ghost": 16}[statistics]
    expected, mean, var = by_hand(x, parts)
    ghost = 1 if statistics == "ghost" else None
    shared = {"momentum": 0.0, "statistics": statistics, "ghost_size": ghost}
    variables = BatchNorm().init(jax.random.key(0), x, train=False)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def apply(norm, x):
        return norm.apply(variables, x, train=True, mutable=["batch_stats"])

    def check(result):
        y, updates = result
        np.testing.assert_allclose(np.asarray(y).reshape(x.shape), expected, rtol=1e-4, atol=1e-4)
        for name, value in (("mean", mean), ("var", var)):
            got = np.asarray(updates["batch_stats"][name]).reshape(-1, 2)
            np.testing.assert_allclose(got, np.broadcast_to(value, got.shape), rtol=1e-4)

    sharded = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
    check(jax.jit(lambda x: apply(BatchNorm(devices=8, **shared), x))(sharded))
    local = BatchNorm(axis_name="data", **shared)
    if mapped == "pmap":
        check(jax.pmap(lambda x: apply(local, x), axis_name="data")(x.reshape(8, 2, 3, 3, 2)))
    else:
        spec = (jax.P("data"), {"batch_stats": {"mean": jax.P(), "var": jax.P()}})
        check(jax.jit(jax.shard_map(lambda x: apply(local, x), mesh=mesh, in_specs=jax.P("data"), out_specs=spec))(x))


def test_device_scope_does_not_communicate_activations():
    """Of a sharded batch, only the running averages (a few numbers per channel) may be reduced over devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jax.ShapeDtypeStruct((16, 3, 3, 2), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P("data")))
    norm = BatchNorm(statistics="device", devices=8)
    variables = norm.init(jax.random.key(0), jnp.zeros((1, 3, 3, 2)), train=False)
    compiled = jax.jit(lambda x: norm.apply(variables, x, train=True, mutable=["batch_stats"])[0]).lower(x).compile()
    assert not [line for line in compiled.as_text().splitlines() if "all-" in line]


@pytest.mark.parametrize(
    ("groups", "shape"), [(1, (2, 4, 4, 6)), (3, (2, 4, 4, 6)), (None, (2, 5, 6)), (2, (2, 3, 3, 3, 4))]
)
def test_group_norm_against_its_definition(groups, shape):
    x = 100.0 + jax.random.normal(jax.random.key(0), shape)
    norm = GroupNorm(groups)
    variables = norm.init(jax.random.key(0), x)
    channels = shape[-1]
    scale, bias = jnp.arange(1.0, channels + 1), jnp.arange(channels, dtype=jnp.float32)
    y = norm.apply({"params": {"scale": scale, "bias": bias}}, x, train=True)
    expected = np.empty(shape)
    wide, size = np.asarray(x, np.float64), channels // (groups or channels)
    for n in range(shape[0]):
        for first in range(0, channels, size):
            part = wide[n, ..., first : first + size]
            expected[n, ..., first : first + size] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    np.testing.assert_allclose(y, expected * np.asarray(scale) + np.asarray(bias), rtol=1e-3, atol=1e-3)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"scale": (channels,), "bias": (channels,)}}


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(UsageError, match="4 groups do not divide 6 channels; set norm_groups"):
        GroupNorm(4).init(jax.random.key(0), jnp.ones((1, 2, 2, 6)))


def test_affine_scales_and_shifts():
    params = {"scale": jnp.asarray([2.0, 3.0]), "bias": jnp.asarray([1.0, -1.0])}
    y = Affine().apply({"params": params}, jnp.ones((1, 2, 2)))
    assert y.tolist() == [[[3.0, 2.0], [3.0, 2.0]]]
    assert Affine().init(jax.random.key(0), jnp.ones((1, 2, 2)))["params"]["scale"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("choices", [{}, {"statistics": "ghost", "ghost_size": 2}, {"statistics": "frozen"}])
@pytest.mark.parametrize("train", [True, False])
def test_relu_on_top_is_relu_after(x, train, choices):
    """In value, gradients and running averages."""
    variables = BatchNorm().init(jax.random.key(0), x, train=False)
    params = {"scale": jnp.array([1.0, -2.0, 0.5]), "bias": jnp.array([0.1, 0.2, -0.3])}

    def loss(params, x, relu):
        norm = BatchNorm(relu=relu, **choices)
        y, updates = norm.apply({**variables, "params": params}, x, train=train, mutable=["batch_stats"])
        y = y if relu else jax.nn.relu(y)
        return jnp.sum(jnp.sin(y)), (y, updates)

    on_top, after = (jax.jit(jax.value_and_grad(lambda p, x, r=r: loss(p, x, r), (0, 1), True)) for r in (True, False))
    for a, b in zip(*map(jax.tree.leaves, (on_top(params, x), after(params, x))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eps", [1e-5, 0.5])
@pytest.mark.parametrize(
    ("kind", "axes"),
    [("batch", (0, 1, 2)), ("running", None), ("layer", (1, 2, 3)), ("instance", (1, 2)), ("group", (1, 2, 4))],
)
def test_the_epsilon_of_every_norm_is_under_the_root(kind, axes, eps):
    """Variances around eps, so that any other place would show."""
    x = (np.sqrt(eps) * np.random.default_rng(0).normal(size=(4, 5, 5, 6))).astype(np.float32)
    norms = {
        "batch": BatchNorm(eps=eps), "running": BatchNorm(eps=eps), "layer": GroupNorm(1, eps=eps),
        "instance": GroupNorm(None, eps=eps), "group": GroupNorm(3, eps=eps),
    }  # fmt: skip
    norm = norms[kind]
    variables = norm.init(jax.random.key(0), jnp.asarray(x), train=False)
    wide = x.astype(np.float64).reshape(4, 5, 5, 3, 2) if kind == "group" else x.astype(np.float64)
    if kind == "running":
        stats = {"mean": jnp.full(6, 0.1), "var": jnp.full(6, eps)}
        found, expected = (
            norm.apply({**variables, "batch_stats": stats}, x, train=False),
            (wide - 0.1) / np.sqrt(2 * eps),
        )
    else:
        found = norm.apply(variables, x, train=True, mutable=["batch_stats"])[0]
        centred = wide - wide.mean(axes, keepdims=True)
        expected = (centred / np.sqrt(wide.var(axes, keepdims=True) + eps)).reshape(x.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
