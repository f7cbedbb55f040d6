"""Contrastive training on several devices: the batch of all of them is compared, whatever they are."""

from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import numpy as np
import optax
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import BlockNames
from resnet_jax.instrument.probing import chart_blocks
from resnet_jax.models import ResNetConfig, two_towers
from resnet_jax.tasks.contrastive import Contrastive
from resnet_jax.training.compile import compile_eval_step, compile_train_step, create_state
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.mapped import unmapped
from resnet_jax.training.placement import Placement, make_mesh, shard_batch
from resnet_jax.training.step import make_eval_step, make_train_step

SHAPES = (8, 8, 1), (12, 2)
TX = optax.sgd(1.0)  # what the parameters move by is the gradient


def towers(norm: Any = "batch") -> Any:
    left = ResNetConfig((1,), (4,), stem="cifar", num_classes=6, in_channels=1, norm=norm, norm_groups=2)
    right = ResNetConfig((1,), (4,), stem="cifar", num_classes=6, in_channels=2, spatial_dims=1, norm="batch")
    return two_towers(left, right, SHAPES[1])


def batch(size=16):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, size).astype(np.int32)
    made = {
        name: (rng.normal(size=(size, *shape)) + label.reshape(-1, *(1,) * len(shape)) / 2).astype(np.float32)
        for name, shape in zip(("image", "other"), SHAPES, strict=True)
    }
    return {**made, "label": label, "mask": np.ones(size, bool), "index": np.arange(size), "epoch": np.zeros(size, int)}


@functools.cache
def step_on(devices, positives, **options):
    mesh, model = make_mesh(jax.devices()[:devices]), towers()
    step = compile_train_step(make_train_step(model, TX, task=Contrastive(6, 5, positives), **options), mesh)
    before = create_state(model, TX, jax.random.key(0), SHAPES[0], mesh=mesh)
    start = jax.device_get(before.params)
    after, metrics = step(before, shard_batch(batch(), mesh))
    moved = jax.tree.map(lambda new, old: np.asarray(old) - np.asarray(new), jax.device_get(after.params), start)
    return moved, jax.device_get((metrics, after.batch_stats))


@pytest.mark.parametrize("positives", ["pair", pytest.param("class", marks=pytest.mark.slow)])
def test_loss_and_gradients_on_8_devices_are_those_on_one(positives):
    gradients, (metrics, stats) = step_on(1, positives)
    others, (their_metrics, their_stats) = step_on(8, positives)
    assert metrics["loss"] == pytest.approx(their_metrics["loss"], abs=1e-6)
    most = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    assert most > 0.1  # there is something to compare
    chex.assert_trees_all_close(gradients, others, atol=1e-6 * max(most, 1.0), rtol=0)
    chex.assert_trees_all_close(stats, their_stats, atol=1e-6, rtol=0)
    assert metrics["nearest"] == their_metrics["nearest"]


def test_negatives_are_those_of_all_devices():
    """What a mean of the devices' own losses would be is another number."""
    model, task = towers(), Contrastive(6, 5, "pair")
    state = create_state(model, TX, jax.random.key(0), SHAPES[0], mesh=make_mesh(jax.devices()[:1]))

    @jax.jit
    def losses(variables, given):
        inputs = {name: given[name] for name in ("image", "other")}
        outputs, _ = model.apply(variables, inputs, train=True, mutable=["batch_stats"])
        cut = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), (outputs, {"label": given["label"]}))
        return task.loss(outputs, given).mean(), jax.vmap(task.loss)(*cut).mean()

    whole, parts = losses(state.variables, batch())
    assert float(step_on(8, "pair")[1][0]["loss"]) == pytest.approx(float(whole), abs=1e-5)
    assert abs(float(parts) - float(whole)) > 0.5


def test_it_is_left_to_the_compiler_and_says_why():
    placement = Placement.of(jax.devices()[:8])
    assert "TwoTowers" in (unmapped(towers(), placement, Contrastive(6, 5)) or "")
    network = towers().left
    assert "compares the examples of the whole batch" in (unmapped(network, placement, Contrastive(6, 5)) or "")
    assert unmapped(network, placement) is None


def test_micro_batches_are_refused():
    with pytest.raises(UsageError, match="each of 2 micro-batches would only be compared with itself: accumulate 1"):
        make_train_step(towers(), TX, task=Contrastive(6, 5), accumulate=2)


@pytest.mark.slow
def test_an_evaluation_counts_every_pair_once_whatever_the_devices():
    found = []
    for devices in (1, 8):
        mesh, model = make_mesh(jax.devices()[:devices]), towers()
        task = Contrastive(6, 5)
        step = compile_eval_step(make_eval_step(model, task=task), mesh)
        state = create_state(model, TX, jax.random.key(0), SHAPES[0], mesh=mesh)
        given = {**batch(), "mask": np.arange(16) < 13}
        found.append(evaluate(step, state.eval_variables, [given], mesh=mesh, task=task))
    assert found[0].examples == 13
    assert found[0].rows["image"].shape == (13, 6)
    assert found[0].metrics == pytest.approx(found[1].metrics, abs=1e-6)
    assert found[0].loss == pytest.approx(found[1].loss, abs=1e-5)


@pytest.mark.slow
def test_the_gradient_at_every_block_of_both_towers():
    model = towers("group")
    chart = chart_blocks(model, SHAPES[0], 16, BlockNames())
    step = make_train_step(model, TX, task=Contrastive(6, 5), probe=BlockNames())
    mesh = make_mesh(jax.devices()[:1])
    state = create_state(model, TX, jax.random.key(0), SHAPES[0], mesh=mesh)
    _, metrics = jax.jit(step)(state, batch())
    assert len(chart.names) == 2
    assert len(set(chart.names)) == 2
    assert metrics["block_grad_norm"].shape == (2,)
    assert bool((metrics["block_grad_norm"] > 0).all())
