"""Moving averages: the closed form of the recursion, the warm-up, dtypes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.training.ema import ema_decay, ema_init, ema_update


def test_many_updates_equal_the_weighted_sum() -> None:
    """e_n = d^n e_0 + (1 - d) sum_i d^(n-i) x_i, for parameters and statistics alike, under jit."""
    xs, d = np.random.default_rng(0).normal(size=(20, 3)), 0.9
    tree = {"params": {"w": jnp.zeros(3)}, "batch_stats": {"mean": jnp.ones(3)}}
    update = jax.jit(lambda e, x: ema_update(e, {"params": {"w": x}, "batch_stats": {"mean": 2 * x}}, d))
    for x in xs:
        tree = update(tree, jnp.asarray(x, jnp.float32))
    weights = (1 - d) * d ** np.arange(19, -1, -1.0)
    np.testing.assert_allclose(tree["params"]["w"], weights @ xs, atol=1e-6)
    np.testing.assert_allclose(tree["batch_stats"]["mean"], d**20 + 2 * weights @ xs, atol=1e-6)


def test_warmup() -> None:
    steps = np.array([0, 1, 8, 79, 80, 81, 10**6])
    decays = [ema_decay(0.9, jnp.int32(t)) for t in steps]
    np.testing.assert_allclose(decays, np.minimum(0.9, (1 + steps) / (10 + steps)), rtol=1e-6)
    first = ema_update({"w": jnp.zeros(())}, {"w": jnp.ones(())}, 0.9999, jnp.int32(0))
    np.testing.assert_allclose(first["w"], 0.9, rtol=1e-6)


def test_no_warmup_without_a_step() -> None:
    assert ema_decay(0.9) == np.float32(0.9)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_average_is_float32(dtype: jnp.dtype) -> None:
    new = {"w": jnp.ones(2, dtype)}
    ema = ema_init({"w": jnp.zeros(2, dtype)})
    assert ema["w"].dtype == jnp.float32
    ema = ema_update(ema, new, 0.999)  # below the resolution of bfloat16 once added up
    assert ema["w"].dtype == jnp.float32
    np.testing.assert_allclose(ema["w"], 0.001, rtol=1e-4)


def test_init_copies_so_that_both_trees_may_be_donated() -> None:
    x = jnp.ones(3)
    assert ema_init({"w": x})["w"].unsafe_buffer_pointer() != x.unsafe_buffer_pointer()


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(UsageError, match=r"must be in \[0, 1\)"):
        ema_update({"w": jnp.ones(1)}, {"w": jnp.ones(1)}, decay)
