"""L1 by soft-thresholding: the closed form of the lasso, exact zeros, who is penalized, and packed as leaf by leaf."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.training.optimizers import OptimConfig, make_optimizer
from resnet_jax.training.packing import ElementwiseTransformation, Packing
from resnet_jax.training.population import with_rate_scale
from resnet_jax.training.schedules import ScheduleConfig


def _fit(cfg: OptimConfig, x: np.ndarray, y: np.ndarray, steps: int = 400) -> np.ndarray:
    """Return the kernel that minimizes |y - x w|^2 / 2, and the optimizer's penalty."""
    params = {"head": {"kernel": jnp.ones((x.shape[1], 1))}}
    tx, _ = make_optimizer(cfg, params, steps_per_epoch=steps, total_steps=steps)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        params, state = carry
        grads = jax.grad(lambda p: 0.5 * jnp.square(x @ p["head"]["kernel"][:, 0] - y).sum())(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), None, length=steps))(params)
    return np.asarray(params["head"]["kernel"][:, 0])


def _problem() -> tuple[np.ndarray, np.ndarray]:
    """Return an orthonormal design (20, 8), and targets of which some coefficients are small."""
    rng = np.random.default_rng(0)
    x, _ = np.linalg.qr(rng.normal(size=(20, 8)))
    w = np.array([2.0, -1.5, 0.8, 0.0, 0.05, -0.2, 0.29, -0.35])
    return x.astype(np.float32), (x @ w).astype(np.float32)


@pytest.mark.parametrize(
    "cfg",
    [
        OptimConfig("sgd", 0.1, momentum=0.0),
        OptimConfig("sgd", 0.02, momentum=0.9),
        OptimConfig("sgd", 0.02, momentum=0.9, nesterov=True),
        OptimConfig("sgd", 0.2, momentum=0.5, schedule=ScheduleConfig("cosine", end_value=0.1)),
        OptimConfig("sgd", 0.4, momentum=0.5, role_rates=(("head", 0.5),)),
    ],
    ids=["plain", "momentum", "nesterov", "cosine", "factor"],
)
def test_orthonormal_lasso_has_its_closed_form(cfg: OptimConfig) -> None:
    """W = S(x^T y, l1) (Tibshirani, 1996, section 2.2), zeros and all, whatever the momentum and the rate."""
    x, y = _problem()
    l1, least_squares = 0.3, x.T @ y
    expected = np.sign(least_squares) * np.maximum(np.abs(least_squares) - l1, 0.0)
    found = _fit(dataclasses.replace(cfg, l1=l1, l1_step="proximal"), x, y)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_array_equal(found == 0.0, np.abs(least_squares) < l1)


def test_the_subgradient_has_the_same_minimum_but_no_zeros() -> None:
    x, y = _problem()
    found = _fit(OptimConfig("sgd", 0.1, momentum=0.0, l1=0.3), x, y)
    assert np.abs(found[3:7]).max() < 0.05
    assert (found != 0.0).all()


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_behind_other_optimizers_it_is_decoupled(name: str) -> None:
    """With no gradient a weight falls by rate times l1 an update, to 0 and not below."""
    cfg = OptimConfig(name, 0.1, l1=2.0, l1_step="proximal")
    params = {"head": {"kernel": jnp.array([[1.0], [-0.5], [0.3]]), "bias": jnp.ones(1)}}
    tx, _ = make_optimizer(cfg, params, steps_per_epoch=1, total_steps=10)
    state, zeros = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    for expected in ([0.8, -0.3, 0.1], [0.6, -0.1, 0.0], [0.4, 0.0, 0.0]):
        updates, state = tx.update(zeros, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["head"]["kernel"][:, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(params["head"]["bias"], 1.0)


def test_frozen_parameters_and_other_roles_are_left_alone() -> None:
    params = {"conv1": {"kernel": jnp.ones((1, 1, 2, 2))}, "head": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    cfg = OptimConfig("sgd", 0.1, l1=1.0, l1_step="proximal", freeze=("conv1",), momentum=0.0)
    tx, _ = make_optimizer(cfg, params, steps_per_epoch=1, total_steps=10)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_array_equal(updates["conv1"]["kernel"], 0.0)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.1, rtol=1e-5)
    np.testing.assert_array_equal(updates["head"]["bias"], 0.0)


def test_rates_of_a_populations_members_are_refused() -> None:
    """A factor behind it would leave w (1 - factor) of what is zero."""
    for freeze in ((), ("bias",)):
        cfg = OptimConfig(l1=1.0, l1_step="proximal", freeze=freeze)
        params = {"head": {"kernel": jnp.ones((2, 2))}, "stem": {"conv": {"bias": jnp.ones(2)}}}
        tx, _ = make_optimizer(cfg, params, steps_per_epoch=1, total_steps=10)
        with pytest.raises(UsageError, match=r"do not go with optim\.l1_step proximal"):
            with_rate_scale(tx).init(params)


def test_parameters_may_be_packed_for_it() -> None:
    """A GPU's update goes over vectors of parameters of one label; penalized ones have another than the rest."""
    params = {"conv1": {"kernel": jnp.ones((1, 1, 2, 2))}, "head": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    tx, _ = make_optimizer(OptimConfig(l1=1.0, l1_step="proximal"), params, steps_per_epoch=1, total_steps=10)
    assert isinstance(tx, ElementwiseTransformation)
    assert tx.labels["conv1"]["kernel"] == tx.labels["head"]["kernel"] != tx.labels["head"]["bias"]
    packing, grads = Packing.of(params, tx.labels), jax.tree.map(lambda x: 0.3 * x, params)
    alone, _ = tx.update(grads, tx.init(params), params)
    packed = [packing.pack(tree) for tree in (grads, tx.init(params), params)]
    together = packing.unpack(tx.update(*packed)[0], params)
    jax.tree.map(np.testing.assert_array_equal, alone, together)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (OptimConfig(l1_step="proximal"), "optim.l1_step proximal needs optim.l1"),
        (OptimConfig("lars", l1=1e-4, l1_step="proximal"), "lars does not use l1_step proximal"),
        (OptimConfig("lamb", l1=1e-4, l1_step="proximal"), "lamb does not use l1_step proximal"),
    ],
)
def test_what_does_not_go_is_refused(cfg: OptimConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_optimizer(cfg, {"head": {"kernel": jnp.ones((2, 2))}}, steps_per_epoch=1, total_steps=10)
