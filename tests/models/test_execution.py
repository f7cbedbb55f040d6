"""Unrolled, scanned, rematerialized: the same function, gradients and statistics, for every kind of network."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models import create_model, stack_blocks
from resnet_jax.models.initialize import init_variables
from resnet_jax.models.layout import unstack
from tests.tools import random_variables

SMALL = {"stage_sizes": (1, 3), "widths": (4, 8), "num_classes": 3}
#: One network for each choice that acts on what a loop carries, reads or writes.
NETS = {
    "plain": {},
    "order pre": {"order": "pre"},
    "bottleneck D": {"block": "bottleneck", "shortcut": "D"},
    "C everywhere": {"shortcut": "C"},
    "no skip": {"shortcut": "none"},
    "grouped": {"block": "bottleneck", "groups": 2, "base_width": 32},
    "group norm": {"norm": "group", "norm_groups": 2},
    "instance": {"norm": "instance"},
    "ghost": {"norm_scope": "ghost", "ghost_size": 2},
    "device": {"norm_scope": "device", "norm_devices": 2},
    "device group": {"norm_scope": "device_group", "norm_group_devices": 2, "norm_devices": 4},
    "frozen": {"norm_scope": "frozen"},
    "no norm": {"norm": "none"},
    "folded": {"norm": "folded"},
    "zero gamma": {"residual": "zero_gamma"},
    "fixup": {"norm": "none", "residual": "fixup"},
    "skipinit": {"norm": "none", "residual": "skipinit"},
    "rezero": {"norm": "none", "residual": "rezero"},
    "nf": {"norm": "none", "residual": "nf", "shortcut": "B"},
    "nf gain": {"norm": "none", "residual": "nf_gain", "shortcut": "B"},
    "se": {"attention": "se", "se_ratio": 0.5, "se_divisor": 1},
    "eca": {"attention": "eca"},
    "dropout": {"dropout": 0.3, "head_dropout": 0.2},
    "stochastic depth": {"drop_path": 0.5},
    "both": {"drop_path": 0.5, "dropout": 0.3},
    "bfloat16": {"dtype": "bfloat16"},
    "1-D": {"spatial_dims": 1},
    "3-D": {"spatial_dims": 3},
}
QUICK = ("nf", "both")


def build(choices, **execution):
    return create_model("resnet20_cifar", **{**SMALL, **choices, **execution})


def evaluate(model, variables, x):
    """Return logits, statistics and gradients in training, and logits in evaluation; everything block by block."""

    def loss(params, x):
        logits, updates = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(5)}
        )
        weights = jnp.cos(jnp.arange(logits.size, dtype=jnp.float32)).reshape(logits.shape)
        return jnp.vdot(logits, weights), (logits, updates)

    def everything(params, x):
        gradients, (logits, updates) = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        return unstack(gradients), unstack(updates), logits, model.apply(variables, x, train=False)

    return jax.jit(everything)(variables["params"], x)


def variables_of(model, x):
    """Return random variables, none at 0, where they would hide the branch; the same in every layout."""
    return jax.tree.map(jnp.asarray, random_variables(model, x.shape[1:]))


def close(got, expected, tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for path, a in jax.tree_util.tree_leaves_with_path(got):
        b = expected
        for part in path:
            b = b[getattr(part, "key", getattr(part, "idx", None))]
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-3), err_msg=str(path))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETS]
)
def test_scan_is_unroll(name):
    """To 1e-5 of an array's largest value in float32, 5e-2 in bfloat16, where the loop rounds at other places."""
    unrolled, scanned = build(NETS[name], execution="unroll"), build(NETS[name], execution="scan")
    x = jax.random.normal(jax.random.key(1), (4, *(4,) * unrolled.config.spatial_dims, 3))
    listed, stacked = variables_of(unrolled, x), variables_of(scanned, x)
    assert "blocks" in stacked["params"]["stage2"]
    close(unstack(stacked), listed, 0)
    tolerance = 5e-2 if name == "bfloat16" else 1e-5
    close(evaluate(scanned, stacked, x), evaluate(unrolled, listed, x), tolerance)


_REMATS = list(itertools.product(("plain", "both"), ("unroll", "scan"), ("block", "conv")))
#: Each of the three both ways.
_QUICK_REMATS = [("plain", "scan", "conv"), ("both", "unroll", "block")]


@pytest.mark.parametrize(
    ("name", "execution", "remat"),
    [case if case in _QUICK_REMATS else pytest.param(*case, marks=pytest.mark.slow) for case in _REMATS],
)
@pytest.mark.slow
def test_rematerialization_changes_nothing(name, execution, remat):
    plain, again = build(NETS[name], execution=execution), build(NETS[name], execution=execution, remat=remat)
    x = jax.random.normal(jax.random.key(1), (4, 4, 4, 3))
    variables = variables_of(plain, x)
    assert jax.tree.structure(variables) == jax.tree.structure(variables_of(again, x))
    close(evaluate(again, variables, x), evaluate(plain, variables, x), 1e-5)


def test_what_the_backward_pass_keeps():
    """One activation a block with ``block``; with ``conv`` the convolutions' outputs besides; without, more."""

    def kept(remat):
        model = build({}, execution="scan", stage_sizes=(9,), widths=(4,), remat=remat)
        x = jnp.ones((2, 8, 8, 3))
        shapes = jax.eval_shape(lambda key: init_variables(model, key, (8, 8, 3)), jax.random.key(0))

        def loss(params, stats):
            logits, _ = model.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
            return jnp.sum(logits)

        pullback = jax.eval_shape(
            lambda p, s: jax.vjp(lambda p: loss(p, s), p)[1], shapes["params"], shapes["batch_stats"]
        )
        maps = [leaf for leaf in jax.tree.leaves(pullback) if leaf.shape[:1] == (8,) and leaf.size == 8 * 2 * 8 * 8 * 4]
        return len(maps)

    assert kept("block") == 1
    assert kept("conv") == 3
    assert kept("none") > 3


@pytest.mark.slow
def test_a_loop_works_under_vmap_and_forward_mode():
    scanned, unrolled = (build({}, execution=name) for name in ("scan", "unroll"))
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 4, 3))
    stacked, listed = variables_of(scanned, x[0]), variables_of(unrolled, x[0])

    def hessian_vector(model, variables):
        def loss(x):
            return jnp.sum(jnp.sin(model.apply(variables, x, train=True, mutable=["batch_stats"])[0]))

        return jax.jit(jax.vmap(lambda x: jax.jvp(jax.grad(loss), (x,), (jnp.cos(x),))))(x)

    close(hessian_vector(scanned, stacked), hessian_vector(unrolled, listed), 1e-4)


def test_the_program_does_not_grow_with_depth():
    def lines(blocks):
        model = build({}, execution="auto", stage_sizes=(blocks, 1), widths=(4, 4))
        shapes = jax.eval_shape(lambda key: init_variables(model, key, (4, 4, 3)), jax.random.key(0))
        step = jax.jit(lambda v, x: jax.grad(lambda v: jnp.sum(model.apply(v, x, train=False)))(v))
        return len(step.lower(shapes, jnp.ones((1, 4, 4, 3))).as_text().splitlines())

    assert lines(9) == lines(200)


def test_initial_blocks_differ_and_have_the_right_scale():
    model = build({}, execution="scan", stage_sizes=(9,), widths=(16,))
    variables = jax.jit(lambda key: init_variables(model, key, (4, 4, 3)))(jax.random.key(0))
    kernels = np.asarray(variables["params"]["stage1"]["blocks"]["branch"]["conv1"]["kernel"])
    assert len({kernel.tobytes() for kernel in kernels}) == 8
    assert kernels.std() == pytest.approx(np.sqrt(2 / (9 * 16)), rel=0.03)  # Kaiming, fan out


def test_the_choice_is_part_of_the_configuration():
    assert dataclasses.replace(build({}).config, execution="scan").execution == "scan"
    with pytest.raises(ValueError, match="unknown execution 'loop'"):
        build({}, execution="loop")
    with pytest.raises(ValueError, match="unknown remat 'all'"):
        build({}, remat="all")


@pytest.mark.parametrize(("given", "execution"), [("unroll", "scan"), ("scan", "unroll")])
def test_variables_in_the_other_layout_are_refused_with_the_way_out(given, execution):
    x = jnp.ones((1, 4, 4, 3))
    variables = jax.eval_shape(
        lambda key: init_variables(build({}, execution=given), key, x.shape[1:]), jax.random.key(0)
    )
    model = build({}, execution=execution)
    with pytest.raises(UsageError, match=rf"stage2: .*resnet_jax.stack_blocks\(variables, '{execution}'\)"):
        jax.eval_shape(lambda v: model.apply(v, x, train=False), variables)
    other = stack_blocks(variables, execution)
    assert jax.eval_shape(lambda v: model.apply(v, x, train=False), other).shape == (1, 3)


def test_each_block_of_a_loop_drops_other_examples():
    """With order pre a dropped branch leaves the sum as it was, to the last bit."""
    model = build({"drop_path": 0.9, "order": "pre"}, execution="scan", stage_sizes=(9,), widths=(4,))
    x = jax.random.normal(jax.random.key(1), (32, 4, 4, 3))
    variables = variables_of(model, x)

    @jax.jit
    def captured(variables, x):
        return model.apply(
            variables, x, train=True, mutable=["batch_stats", "intermediates"], capture_intermediates=True,
            rngs={"dropout": jax.random.key(5)},
        )[1]  # fmt: skip

    inside = captured(variables, x)
    outputs = np.asarray(inside["intermediates"]["stage1"]["blocks"]["__call__"][0])
    kept = np.stack([(after != before).any(axis=(1, 2, 3)) for before, after in itertools.pairwise(outputs)])
    # of one draw for all blocks the later, whose rates are larger, would keep a part of what the earlier ones keep
    again = [(later & ~earlier).any() for earlier, later in itertools.pairwise(kept)]
    assert sum(again) >= 3
    assert 0 < kept.mean() < 1
