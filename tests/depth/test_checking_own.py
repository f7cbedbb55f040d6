"""The verdict on blocks as users write them: known to train or not, none of them this library's."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from resnet_jax.depth import BlockNames, check

WIDTH = 32
he, lecun, zeros = nn.initializers.he_normal(), nn.initializers.lecun_normal(), nn.initializers.zeros
Branch = Callable[[jax.Array, int], jax.Array]


class Own(nn.Module):
    """A block around a function of its input and its depth index."""

    body: Branch
    depth: int

    @nn.compact
    def __call__(self, x):
        return self.body(x, self.depth)


class Net(nn.Module):
    body: Branch
    blocks: int
    norm_every: int = 0

    @nn.compact
    def __call__(self, x, *, train):
        for depth in range(self.blocks):
            x = Own(self.body, depth)(x)
            if self.norm_every and (depth + 1) % self.norm_every == 0:
                x = nn.LayerNorm()(x)
        return nn.Dense(3)(nn.LayerNorm()(x))


def mlp(x, kernel_init=he, activation=nn.relu, expand=2):
    hidden = activation(nn.Dense(expand * x.shape[-1], kernel_init=kernel_init)(x))
    return nn.Dense(x.shape[-1], kernel_init=kernel_init)(hidden)


def attention(x):
    return nn.MultiHeadDotProductAttention(num_heads=4)(x[None], x[None])[0]


class Scalar(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param("alpha", zeros, ())


def highway(x, depth):
    gate = nn.sigmoid(nn.Dense(x.shape[-1], bias_init=nn.initializers.constant(-2.0))(x))
    return gate * nn.tanh(nn.Dense(x.shape[-1])(x)) + (1 - gate) * x


def plain(scale):
    """Return a layer with weights of variance ``scale`` / fan-in."""
    init = nn.initializers.variance_scaling(scale, "fan_in", "normal")
    return lambda activation: lambda x, depth: activation(nn.Dense(x.shape[-1], kernel_init=init)(x))


TRAINS = {
    "pre-norm MLP": (lambda x, depth: x + mlp(nn.LayerNorm()(x)), 24),
    "pre-norm MLP, large branches": (lambda x, depth: x + 10.0 * mlp(nn.LayerNorm()(x)), 24),
    "pre-norm attention": (lambda x, depth: x + attention(nn.LayerNorm()(x)), 12),
    "branches that are not negative": (lambda x, depth: x + nn.relu(mlp(nn.LayerNorm()(x))), 24),
    "branches over sqrt(L)": (lambda x, depth: x + mlp(x) / 24**0.5, 24),
    "branches that begin at zero": (lambda x, depth: x + nn.Dense(WIDTH, kernel_init=zeros)(nn.relu(mlp(x))), 24),
    "ReZero": (lambda x, depth: x + Scalar()(mlp(x)), 24),
    "highway": (highway, 16),
    "plain ReLU, Kaiming": (plain(2.0)(nn.relu), 12),
    "plain tanh, critical": (plain(1.0)(nn.tanh), 16),
    "post-norm": (lambda x, depth: nn.LayerNorm()(x + mlp(x)), 10),
    "GELU, GPT-2's branches": (
        lambda x, depth: x + mlp(nn.LayerNorm()(x), nn.initializers.normal(0.02), nn.gelu, expand=4), 24,
    ),
}  # fmt: skip
FAILS = {
    "no norm": (lambda x, depth: x + mlp(x), 24, "Signals explode"),
    "no norm in the first eight": (lambda x, depth: x + 4 * mlp(x if depth < 8 else nn.LayerNorm()(x)), 24, "explode"),
    "plain ReLU, weights four times too small": (plain(0.125)(nn.relu), 16, "Signals vanish"),
    "plain ReLU, LeCun": (plain(1.0)(nn.relu), 24, "Signals vanish"),
    "plain with norm, narrow": (lambda x, depth: nn.LayerNorm()(4.0 * jnp.sin(3.0 * mlp(x))), 24, "Gradients explode"),
    "dead": (lambda x, depth: nn.relu(mlp(x)) * float(depth != 5), 12, "Signals end"),
}


def judge(body: Branch, blocks: int, **choices):
    return check(Net(body, blocks, **choices), (8, WIDTH), draws=1, anatomy=BlockNames(Own))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINS)
def test_what_trains_raises_no_alarm(name):
    assert (found := judge(*TRAINS[name])).ok, str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILS)
def test_what_does_not_train_fails(name):
    body, blocks, said = FAILS[name]
    found = judge(body, blocks)
    assert not found.ok
    assert said in str(found)


@pytest.mark.slow
def test_norms_between_groups_of_blocks_do_not_hide_an_explosion():
    found = judge(lambda x, depth: 4.0 * (x + mlp(x)), 16, norm_every=8)
    assert not found.ok
    assert "Signals explode" in str(found)
