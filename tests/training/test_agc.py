"""Adaptive clipping against NumPy's equation and Optax's, and who is left out: by role, wherever it stands."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.errors import UsageError
from resnet_jax.training.agc import clip_adaptively, require_excluded, unit_norms
from resnet_jax.training.optimizers import OptimConfig, make_optimizer
from resnet_jax.training.roles import ROLE_RULES, role_rules, roles

RNG = np.random.default_rng(0)


def _net(seed: int, head: str = "head") -> dict:
    """Kernels of one, two and three spatial dimensions, and every other kind."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        head: {"kernel": draw(6, 3), "bias": draw(3)},
        "conv1": {"kernel": draw(3, 3, 2, 4), "gain": draw(4), "bias": draw(4)},
        "norm": {"scale": draw(4)},
        "block0": {"branch": {"scale": draw(), "conv1": {"kernel": draw(5, 2, 4)}}},
        "z": {"conv": {"kernel": draw(2, 2, 2, 3, 4)}, "se": {"reduce": {"kernel": draw(4, 2)}}},
    }


def _flat(tree: dict) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x, np.float64) for p, x in leaves}


def _equation_3(g: np.ndarray, w: np.ndarray, clipping: float, kernel: bool) -> np.ndarray:
    """Unit by unit, in float64."""
    if not kernel:
        norm = np.sqrt((g**2).sum())
        return g * min(1.0, clipping * max(np.sqrt((w**2).sum()), 1e-3) / norm) if norm else g
    out = g.copy()
    for unit in range(g.shape[-1]):
        norm = np.linalg.norm(g[..., unit])
        if norm:
            out[..., unit] *= min(1.0, clipping * max(np.linalg.norm(w[..., unit]), 1e-3) / norm)
    return out


@pytest.mark.parametrize("clipping", [0.01, 0.9, 5.0])
def test_every_parameter_follows_the_equation(clipping: float) -> None:
    """0.9 clips some units and not others; the classifier keeps its gradient to the bit."""
    w, g = _net(0), _net(1)
    tx = clip_adaptively(clipping, roles(w))
    got = _flat(jax.jit(tx.update)(g, tx.init(w), w)[0])
    weights, gradients = _flat(w), _flat(g)
    for path, gradient in gradients.items():
        if path.startswith("head/"):
            np.testing.assert_array_equal(got[path], gradient)
            continue
        expected = _equation_3(gradient, weights[path], clipping, path.endswith("kernel"))
        np.testing.assert_allclose(got[path], expected, rtol=2e-6, err_msg=path)
    kernel = np.abs(got["conv1/kernel"] / gradients["conv1/kernel"]).max(axis=(0, 1, 2))
    if clipping == 0.9:
        assert kernel.min() < 0.99
        assert kernel.max() == 1.0


def test_optax_agrees_where_it_knows_the_rank_and_not_elsewhere() -> None:
    w, g = _net(0), _net(1)
    ours = clip_adaptively(0.3, roles(w), exclude=())
    theirs = optax.adaptive_grad_clip(0.3)
    a, b = (_flat(jax.jit(tx.update)(g, tx.init(w), w)[0]) for tx in (ours, theirs))
    for path in a:
        if path == "block0/branch/conv1/kernel":  # (5, 2, 4): a one-dimensional convolution
            assert not np.allclose(a[path], b[path], rtol=1e-3)
        else:
            np.testing.assert_allclose(a[path], b[path], rtol=1e-6, err_msg=path)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.sampled_from([(), (3,), (1,), (2, 3), (4, 1), (2, 1, 3), (3, 2, 2, 4)]),  # each compiles operations
    clipping=st.floats(1e-3, 10.0),
    scale=st.floats(-8.0, 8.0),
    seed=st.integers(0, 2**31),
)
def test_the_bound_holds_and_directions_stay(shape: tuple[int, ...], clipping: float, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = jnp.asarray(rng.normal(size=shape), jnp.float32)
    g = jnp.asarray(10.0**scale * rng.normal(size=shape), jnp.float32)
    tx = clip_adaptively(clipping, "conv", exclude=())
    once, _ = tx.update(g, tx.init(w), w)
    limit = clipping * np.maximum(unit_norms(w, "conv"), 1e-3)
    assert (np.asarray(unit_norms(once, "conv")) <= limit * (1 + 1e-5)).all()
    np.testing.assert_array_equal(np.sign(once), np.sign(g))
    twice, _ = tx.update(once, tx.init(w), w)
    np.testing.assert_allclose(twice, once, rtol=1e-5)


def test_units_are_told_by_role_not_by_rank() -> None:
    """What is no kernel is one unit, however many axes it has; a vector that is a kernel is one too."""
    x = jnp.full((3, 4), 2.0)
    np.testing.assert_allclose(unit_norms(x, "dense"), np.full((1, 4), 12**0.5), rtol=1e-6)
    np.testing.assert_allclose(unit_norms(x, "gain"), np.full((1, 1), 48**0.5), rtol=1e-6)
    np.testing.assert_allclose(unit_norms(x[0], "conv"), np.full(1, 4.0), rtol=1e-6)


def test_zero_weights_can_move_and_a_zero_gradient_stays() -> None:
    tx = clip_adaptively(0.01, "conv", exclude=())
    zeros, ones = jnp.zeros((2, 3)), jnp.ones((2, 3))
    moved, _ = tx.update(ones, tx.init(zeros), zeros)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=0), 0.01 * 1e-3, rtol=1e-6)
    still, _ = tx.update(zeros, tx.init(ones), ones)
    np.testing.assert_array_equal(still, zeros)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    """Else a broken step would look like a good one."""
    tx = clip_adaptively(0.01, "conv", exclude=())
    w = jnp.ones((2, 3))
    out, _ = tx.update(w.at[0, 0].set(bad), tx.init(w), w)
    assert not np.isfinite(out).all()


def test_narrow_gradients_keep_their_dtype_and_are_measured_wide() -> None:
    g, w = jnp.full((300, 2), 300.0, jnp.float16), jnp.ones((300, 2), jnp.float32)  # 300^2 overflows float16
    tx = clip_adaptively(0.5, "conv", exclude=())
    out, _ = tx.update(g, tx.init(w), w)
    assert out.dtype == jnp.float16
    np.testing.assert_allclose(out, 0.5, rtol=1e-3)


def _kept(net_params: dict, rules=ROLE_RULES) -> set[str]:
    """Return which parameters `make_optimizer` with tiny clipping leaves unclipped."""
    cfg = OptimConfig("sgd", learning_rate=1.0, momentum=0.0, agc=1e-6)
    tx, _ = make_optimizer(cfg, net_params, steps_per_epoch=1, total_steps=1, rules=rules)
    ones = jax.tree.map(jnp.ones_like, net_params)
    updates, _ = jax.jit(tx.update)(ones, tx.init(net_params), net_params)
    return {path for path, update in _flat(updates).items() if (np.abs(update) > 0.5).all()}


@pytest.mark.parametrize("head", ["head", "classifier", "a_head", "zz"])
def test_the_classifier_is_told_by_role_not_by_position(head: str) -> None:
    """Under any name, with any number of parameters behind it: "the last two" are right for one of these only."""
    params, rules = _net(0, head), role_rules(head=head)
    assert (list(_flat(params))[-2:] == [f"{head}/bias", f"{head}/kernel"]) == (head == "zz")
    assert _kept(params, rules) == {f"{head}/kernel", f"{head}/bias"}


def test_default_rules_know_usual_names_and_refuse_to_guess_others() -> None:
    assert _kept(_net(0, "classifier")) == {"classifier/kernel", "classifier/bias"}
    with pytest.raises(UsageError, match=r"no parameter has one: .* rules=role_rules\(head=...\)"):
        _kept(_net(0, "Dense_0"))
    with pytest.raises(UsageError, match="leaves out the roles head"):
        require_excluded({"conv": {"kernel": 0}}, ("head",))
    require_excluded({"conv": {"kernel": 0}}, ())


def test_adaptive_clipping_comes_before_the_global_norm() -> None:
    """The global norm is that of the clipped gradient, and the penalties are not clipped."""
    w, g = _net(0), _net(1)
    cfg = OptimConfig("sgd", 1.0, momentum=0.0, weight_decay=0.1, agc=0.3, clip_norm=0.5)
    tx, _ = make_optimizer(cfg, w, steps_per_epoch=1, total_steps=1)
    got = _flat(jax.jit(tx.update)(g, tx.init(w), w)[0])
    weights, gradients = _flat(w), _flat(g)
    clipped = {
        path: gradient
        if path.startswith("head/")
        else _equation_3(gradient, weights[path], 0.3, path.endswith("kernel"))
        for path, gradient in gradients.items()
    }
    norm = np.sqrt(sum((x**2).sum() for x in clipped.values()))
    for path, x in clipped.items():
        decay = 0.1 * weights[path] if path.endswith("kernel") else 0.0
        np.testing.assert_allclose(got[path], -(0.5 / norm * x + decay), rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize(
    ("cfg", "why"),
    [
        (OptimConfig(agc=0.01, agc_exclude=("haed",)), "unknown parameter role 'haed'; did you mean 'head'"),
        (OptimConfig(agc=0.01, agc_exclude=("scalar",)), "leaves out the roles scalar, and no parameter has one"),
    ],
)
def test_refusals(cfg: OptimConfig, why: str) -> None:
    with pytest.raises(UsageError, match=r"agc must be positive, got 0\.0"):
        OptimConfig(agc=0.0)
    params = {"head": {"kernel": jnp.ones((2, 2))}}
    with pytest.raises(UsageError, match=why):
        make_optimizer(cfg, params, steps_per_epoch=1, total_steps=1)
