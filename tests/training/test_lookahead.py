"""Lookahead against the paper's algorithm, written out in NumPy; frozen parameters, packing, rejected updates."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.training.lookahead import Lookahead, LookaheadState
from resnet_jax.training.optimizers import OptimConfig, make_optimizer
from resnet_jax.training.packing import ElementwiseTransformation, Packing
from resnet_jax.training.population import with_rate_scale
from resnet_jax.training.schedules import ScheduleConfig
from resnet_jax.training.state import TrainState
from resnet_jax.training.update import advance

CURVATURE = np.array([1.0, 0.3, 0.1])


def _trajectory(cfg: OptimConfig, steps: int) -> np.ndarray:
    """Return the weights after every update on a quadratic, (steps, 3)."""
    params = {"head": {"kernel": jnp.ones((3, 1))}}
    tx, _ = make_optimizer(cfg, params, steps_per_epoch=steps, total_steps=steps)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.tree.map(lambda w: CURVATURE[:, None] * w, params), state, params)
        moved: Any = optax.apply_updates(params, updates)
        return (moved, state), moved["head"]["kernel"][:, 0]

    return np.asarray(jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), None, length=steps)[1])(params))


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (Lookahead(every=5), 20),
        (Lookahead(every=5, alpha=0.8), 23),
        (Lookahead(every=3, alpha=1 - 0.95**5, power=3.0), 16),
        (Lookahead(every=1, alpha=0.3), 8),
    ],
)
def test_it_is_algorithm_1_of_the_paper(settings, steps):
    rate, momentum = 0.2, 0.8
    found = _trajectory(OptimConfig("sgd", rate, momentum=momentum, lookahead=settings), steps)
    slow = fast = np.ones(3)
    memory = np.zeros(3)
    assert settings.every is not None
    for made in range(1, steps + 1):
        memory = momentum * memory + CURVATURE * fast  # the inner optimizer, whose state is kept
        fast = fast - rate * memory
        if made % settings.every == 0 or made == steps:
            alpha = 1 - (1 - settings.alpha) * (made / steps) ** settings.power
            slow = slow + alpha * (fast - slow)
            fast = slow
        np.testing.assert_allclose(found[made - 1], fast, rtol=2e-5, atol=1e-6)


def test_a_step_size_of_1_is_the_optimizer_itself_and_less_is_steadier():
    noisy = OptimConfig("sgd", 1.9, momentum=0.0)
    plain = _trajectory(noisy, 20)
    whole = _trajectory(OptimConfig("sgd", 1.9, momentum=0.0, lookahead=Lookahead(every=5, alpha=1.0)), 20)
    np.testing.assert_allclose(whole, plain, rtol=1e-5, atol=1e-6)
    half = _trajectory(OptimConfig("sgd", 1.9, momentum=0.0, lookahead=Lookahead(every=5)), 20)
    assert abs(half[-1, 0]) < 0.5 * abs(plain[-1, 0]), "the direction that swings is damped"


def _network(cfg: OptimConfig) -> tuple[dict, optax.GradientTransformation]:
    rng = np.random.default_rng(0)
    params = {
        name: {"conv": {"kernel": jnp.asarray(rng.normal(size=(2, 2, 2, 2)), jnp.float32)}} for name in ("stem", "rest")
    }
    return params, make_optimizer(cfg, params, steps_per_epoch=5, total_steps=10)[0]


def _slow(state) -> LookaheadState:
    return next(
        node
        for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, LookaheadState))
        if isinstance(node, LookaheadState)
    )


def test_what_is_frozen_has_no_slow_weights_and_does_not_move():
    cfg = OptimConfig("sgd", 0.1, weight_decay=0.1, freeze=("stem",), lookahead=Lookahead(every=2))
    params, tx = _network(cfg)
    state = tx.init(params)
    assert len(jax.tree.leaves(_slow(state).slow)) == 1
    for _ in range(2):
        made, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        updates: Any = made
        assert not np.asarray(updates["stem"]["conv"]["kernel"]).any()
        assert np.asarray(updates["rest"]["conv"]["kernel"]).any()


def test_packed_and_leaf_by_leaf_are_the_same():
    cfg = OptimConfig("sgd", 0.1, nesterov=True, weight_decay=0.1, lookahead=Lookahead(every=2, alpha=0.3))
    params, tx = _network(cfg)
    assert isinstance(tx, ElementwiseTransformation)
    packing = Packing.of(params, tx.labels)
    assert len(packing.groups) == 1
    state, one = tx.init(params), tx.init(params)
    vectors = packing.pack(params)
    for seed in range(4):
        grads = jax.tree.map(lambda w, seed=seed: w * (seed - 1.5), params)
        updates, state = tx.update(grads, state, params)
        together, packed = tx.update(packing.pack(grads), packing.pack(one), vectors)
        one = packing.unpack(packed, one)
        chex.assert_trees_all_close(packing.unpack(together, params), updates, rtol=1e-6)
        params = optax.apply_updates(params, updates)
        vectors = packing.pack(params)
    chex.assert_trees_all_close(one, state, rtol=1e-6)


def test_a_rejected_update_leaves_the_slow_weights_and_nothing_is_traced_twice():
    cfg = OptimConfig("sgd", 0.1, schedule=ScheduleConfig("cosine"), lookahead=Lookahead(every=2))
    params, tx = _network(cfg)
    state = TrainState(jnp.zeros((), jnp.int32), params, {}, tx.init(params), jax.random.key(0))

    @jax.jit
    @chex.assert_max_traces(1)
    def step(state, grads):
        return advance(tx, state, grads, {}, jnp.float32(1.0), None)[0]

    ones = jax.tree.map(jnp.ones_like, params)
    state = step(state, ones)
    rejected = step(state, jax.tree.map(lambda w: w * jnp.nan, ones))
    chex.assert_trees_all_equal(rejected.opt_state, state.opt_state)
    chex.assert_trees_all_equal(rejected.params, state.params)
    accepted = step(rejected, ones)
    chex.assert_trees_all_close(accepted.params, _slow(accepted.opt_state).slow, rtol=1e-6)


def test_what_does_not_go_together_is_said():
    with pytest.raises(UsageError, match=r"need optim\.lookahead\.every"):
        Lookahead(alpha=0.3)
    with pytest.raises(UsageError, match=r"optim\.lookahead\.alpha must be in \(0, 1\]"):
        Lookahead(every=5, alpha=0.0)
    params, tx = _network(OptimConfig(lookahead=Lookahead(every=2)))
    with pytest.raises(UsageError, match=r"do not go with optim\.lookahead"):
        with_rate_scale(tx).init(params)


def test_without_it_nothing_is_added():
    params, tx = _network(OptimConfig())
    assert not any(isinstance(node, LookaheadState) for node in jax.tree.leaves(tx.init(params)))
    chex.assert_trees_all_equal_structs(tx.init(params), _network(OptimConfig(lookahead=Lookahead()))[1].init(params))
