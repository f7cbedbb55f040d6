"""Optimizers on stacked blocks: each block moves as it does in the listed layout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from resnet_jax.errors import UsageError
from resnet_jax.models.layout import stack, unstack
from resnet_jax.training.freeze import frozen
from resnet_jax.training.lr_multipliers import distances
from resnet_jax.training.optimizers import OptimConfig, make_optimizer

SHAPES = {
    "conv1": {"kernel": (3, 3, 2, 2), "gain": (2,)},
    "norm1": {"scale": (2,), "bias": (2,)},
    "gain": (),
}


def random_tree(seed):
    rng = np.random.default_rng(seed)

    def block():
        # norms that differ from block to block: one norm over the stack would be another number
        fill = lambda shape: jnp.asarray(rng.normal(size=shape) * 10.0 ** rng.uniform(-1, 1), jnp.float32)  # noqa: E731
        return {"branch": jax.tree.map(fill, SHAPES, is_leaf=lambda node: isinstance(node, tuple))}

    head = {"kernel": jnp.asarray(rng.normal(size=(2, 3)), jnp.float32), "bias": jnp.zeros(3)}
    return {"stage1": {f"block{index}": block() for index in range(4)}, "head": head}


OPTIMIZERS = {
    "sgd": OptimConfig("sgd", 0.1, momentum=0.9, nesterov=True, weight_decay=1e-2, l1=1e-3),
    "adamw": OptimConfig("adamw", 0.1, weight_decay=1e-2),
    "rmsprop": OptimConfig("rmsprop", 0.1),
    "lars": OptimConfig("lars", 0.1, weight_decay=1e-2),
    "lamb": OptimConfig("lamb", 0.1, weight_decay=1e-2),
    "agc": OptimConfig("sgd", 0.1, agc=0.02),
    "global clip": OptimConfig("sgd", 0.1, clip_norm=0.5),
    "layer decay": OptimConfig("sgd", 0.1, layer_decay=0.5, role_rates=(("scalar", 0.1),)),
    "freeze a role": OptimConfig("sgd", 0.1, freeze=("norm_scale",), clip_norm=0.5, weight_decay=1e-2),
    "freeze a stage": OptimConfig("adamw", 0.1, freeze=("stage1",)),
    "freeze block 0": OptimConfig("lamb", 0.1, freeze=("stage1/block0",)),
}


@pytest.mark.parametrize(
    "name", [name if name in ("sgd", "lamb") else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
def test_stacked_blocks_move_as_listed_ones(name):
    """Three steps with gradients that change; to float rounding."""

    def train(params, gradients):
        tx, _ = make_optimizer(OPTIMIZERS[name], params, steps_per_epoch=10, total_steps=100)

        def update(held, gradient):
            params, state = held
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(update, (params, tx.init(params)), gradients)[0][0]

    def rows(trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    params, gradients = random_tree(0), [random_tree(seed) for seed in (1, 2, 3)]
    expected = jax.jit(train)(params, rows(gradients))
    got = jax.jit(train)(stack(params, "scan"), rows([stack(gradient, "scan") for gradient in gradients]))
    assert "blocks" in got["stage1"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), unstack(got), expected)


def test_distances_are_those_of_each_block():
    params = random_tree(0)
    stacked = distances(stack(params, "scan"))["stage1"]["blocks"]["branch"]["gain"]
    listed = distances(params)["stage1"]
    assert stacked == tuple(listed[f"block{index}"]["branch"]["gain"] for index in (1, 2, 3)) == (3, 2, 1)


def test_freezing_takes_all_blocks_of_a_stack_or_none():
    params = stack(random_tree(0), "scan")
    everywhere = flatten_dict(frozen(params, ["stage1/block[123]"]), sep="/")
    assert {path for path, is_frozen in everywhere.items() if is_frozen} == {
        path for path in everywhere if path.startswith("stage1/blocks/")
    }
    with pytest.raises(UsageError, match=r"takes stage1/block2/.* and not stage1/block1/.*model.execution unroll"):
        frozen(params, ["stage1/block2"])
    with pytest.raises(UsageError, match="did you mean 'stage1/block2'"):
        frozen(params, ["stage1/blok2"])
