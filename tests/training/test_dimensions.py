"""The same network, step and optimizer learn signals of one, two and three dimensions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.models import ResNet, ResNetConfig
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import make_eval_step, make_train_step
from tests.tools import random_variables

SIDE = {1: 32, 2: 10, 3: 5}


def waves(dims, count, seed):
    """Noisy waves of random phase; the class is the axis (in one dimension the frequency) along which they run."""
    rng = np.random.default_rng(seed)
    side = SIDE[dims]
    axes = np.meshgrid(*[np.arange(side)] * dims, indexing="ij")
    classes = max(dims, 2)
    labels = rng.integers(0, classes, count)
    images = np.empty((count, *(side,) * dims, 1), np.float32)
    for i, label in enumerate(labels):
        along, period = (axes[0], (16, 5)[label]) if dims == 1 else (axes[label], 5)
        wave = np.sin(2 * np.pi * along / period + rng.uniform(0, 2 * np.pi))
        images[i, ..., 0] = wave + 0.5 * rng.normal(size=wave.shape)
    return {"image": jnp.asarray(images), "label": jnp.asarray(labels, jnp.int32)}, classes


@pytest.mark.parametrize("dims", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_learns_signals_of_any_dimension(dims):
    train, classes = waves(dims, 96, seed=0)
    test, _ = waves(dims, 64, seed=1)
    config = ResNetConfig(
        (1,), (4,), stem="cifar", num_classes=classes, in_channels=1, spatial_dims=dims
    )  # fmt: skip
    model, tx = ResNet(config), optax.adam(3e-2)
    variables = jax.tree.map(jnp.asarray, random_variables(model, train["image"].shape[1:]))
    start, key = tx.init(variables["params"]), jax.random.key(0)
    state = TrainState(jnp.int32(0), variables["params"], variables["batch_stats"], start, key)
    with jax.numpy_dtype_promotion("standard"):  # inside Optax's Adam
        step = jax.jit(make_train_step(model, tx))
        for _ in range(30):
            state, metrics = step(state, train)
    assert metrics["rejected"] == 0
    mask = jnp.ones(64, bool)
    result = jax.jit(make_eval_step(model))(state.variables, {**test, "mask": mask})
    assert int(result["sums"]["correct"]) >= 60
