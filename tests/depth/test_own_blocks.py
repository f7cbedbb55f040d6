"""The block of the README, which is nobody's but its author's, in every instrument that takes one."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

from resnet_jax import compile_train_step, create_state, depth, make_mesh, make_train_step, shard_batch
from resnet_jax.tasks.losses import cross_entropy

WIDTH = 8


class MyBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.Dense(WIDTH, name="branch")(nn.relu(x))
        return depth.Identity(name="shortcut")(x) + y


class MyNet(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        for index in range(3):
            x = MyBlock(name=f"block{index}")(x)
        return x


ANATOMY = depth.BlockNames(MyBlock)
IMAGES = np.random.default_rng(0).normal(size=(16, WIDTH)).astype(np.float32)
LABELS = (np.arange(16) % WIDTH).astype(np.int32)


@pytest.fixture
def variables():
    return MyNet().init(jax.random.key(0), IMAGES, train=True)


def logits(variables, x, moved=(0.0,) * 3, without=None):
    """The network by hand, each block's input moved, the branch of one left out."""
    for index in range(3):
        x = x + moved[index]
        dense = variables["params"][f"block{index}"]["branch"]
        x = x + (0.0 if index == without else nn.relu(x) @ dense["kernel"] + dense["bias"][None])
    return x


def test_a_deleted_block_is_its_skip(variables):
    found = depth.delete_blocks(MyNet(), variables, IMAGES, LABELS, anatomy=ANATOMY)
    for index in range(3):
        expected = cross_entropy(logits(variables, IMAGES, without=index), LABELS).mean()
        np.testing.assert_allclose(found.loss[index], expected, rtol=1e-5)


@pytest.mark.slow
def test_the_probe_of_the_step_and_the_profile_are_the_derivative(variables):
    model, mesh, tx = MyNet(), make_mesh(jax.devices()[:1]), optax.sgd(0.1)
    state = create_state(model, tx, jax.random.key(0), (WIDTH,), mesh=mesh)
    weights = jax.device_get({"params": state.params})

    def loss(moved):
        return cross_entropy(logits(weights, IMAGES, moved), LABELS).mean()

    gradients = jax.grad(loss)([np.zeros_like(IMAGES)] * 3)
    expected = [float(np.linalg.norm(gradient)) for gradient in gradients]
    step = compile_train_step(make_train_step(model, tx, probe=ANATOMY), mesh)
    _, metrics = step(state, shard_batch({"image": IMAGES, "label": LABELS}, mesh))
    found = depth.profile(model, weights, IMAGES, LABELS, anatomy=ANATOMY)
    np.testing.assert_allclose(metrics["block_grad_norm"], expected, rtol=1e-5)
    np.testing.assert_allclose(found.grad_norm, expected, rtol=1e-5)
