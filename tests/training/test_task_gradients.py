"""Gradients of several tasks in one step: each as if computed alone, compared at every block, combined as published."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.instrument.hooks import BlockNames
from resnet_jax.models import ResNet, ResNetConfig
from resnet_jax.models.layout import stack
from resnet_jax.tasks import Classification
from resnet_jax.tasks.multitask import Multitask, Part, UncertainMultitask
from resnet_jax.tasks.regression import Regression
from resnet_jax.training.compile import compile_train_step
from resnet_jax.training.loss_scale import LossScaling, init_loss_scale
from resnet_jax.training.mesh import make_mesh, replicated, shard_batch
from resnet_jax.training.optimizers import OptimConfig, make_optimizer
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import make_train_step
from resnet_jax.training.task_gradients import ORDER, pcgrad, projected_weights
from tests.tools import random_variables

SHAPE, BATCH, TX = (8, 8, 3), 8, optax.sgd(1.0)
PARTS = (
    Part("shape", "label", Classification(3), 0.5),
    Part("odd", "label_odd", Classification(2), 2.0),
    Part("size", "value_size", Regression(1), 1.0, kind="value"),
)
PAIRS = tuple(itertools.combinations(range(3), 2))


def network(*, stages=(1, 2), head: Any = "several", **choices: Any) -> ResNet:
    outputs = ("shape:3", "odd:2", "size:1")
    choices = {"stem": "cifar", "num_classes": 6, "norm": "none", "residual": "nf", "head_outputs": outputs, **choices}
    return ResNet(ResNetConfig(stages, (4, 8)[: len(stages)], head=head, **choices))


def batch() -> Any:
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(BATCH, *SHAPE)).astype(np.float32),
        "label": rng.integers(0, 3, BATCH).astype(np.int32),
        "label_odd": np.array([0, 1, -1, 1, 0, 0, -1, 1], np.int32),
        "value_size": np.array([0.5, np.nan, 1.0, -1.0, 0.1, np.nan, 2.0, 0.3], np.float32),
    }


@functools.cache
def variables_of(config: ResNetConfig) -> Any:
    plain = ResNet(dataclasses.replace(config, execution="unroll", axis_name=None))
    return random_variables(plain, SHAPE)


def state_of(model: ResNet, scaling: LossScaling | None = None) -> TrainState:
    variables = jax.tree.map(jnp.asarray, stack(variables_of(model.config), model.config.execution))
    return TrainState(
        step=jnp.int32(3), params=variables["params"], batch_stats=variables.get("batch_stats", {}),
        opt_state=TX.init(variables["params"]), rng=jax.random.key(5),
        loss_scale=None if scaling is None else init_loss_scale(scaling),
    )  # fmt: skip


def one_step(model, task, *, devices=1, probe=True, scaling=None, **options):
    mesh = make_mesh(jax.devices()[:devices])
    probed = BlockNames() if probe else None
    step = make_train_step(model, TX, task=task, probe=probed, loss_scaling=scaling, **options)
    state = jax.device_put(state_of(model, scaling), replicated(mesh))
    new, metrics = compile_train_step(step, mesh)(state, shard_batch(batch(), mesh))
    change = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), state_of(model).params, new.params)
    return change, jax.device_get(metrics)


@functools.cache
def alone(model: Any, task: Multitask) -> list[Any]:
    """The gradient of each task by itself: `jax.grad` of its mean loss, once a task."""
    state, data = state_of(model), batch()

    def loss(params, name):
        outputs = model.apply({"params": params, "batch_stats": state.batch_stats}, data["image"], train=False)
        return jnp.mean(task.task_losses(outputs, data)[name])

    return [jax.device_get(jax.grad(loss)(state.params, part.name)) for part in task.parts]


def cosine(a: Any, b: Any) -> float:
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64) for tree in (a, b))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("options", "choices"),
    [
        ({}, {"stages": (1,)}),
        pytest.param({"devices": 2}, {}, marks=pytest.mark.slow),
        pytest.param({}, {"execution": "scan", "stages": (1, 3)}, marks=pytest.mark.slow),
        pytest.param({"accumulate": 2, "devices": 2}, {}, marks=pytest.mark.slow),
        pytest.param({"scaling": LossScaling(1024.0, 100)}, {}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_cosines_at_every_block_are_those_of_gradients_computed_one_by_one(options, choices):
    model: Any = network(**choices)
    task = Multitask(6, PARTS)
    change, metrics = one_step(model, task, **options)
    unrolled: Any = ResNet(dataclasses.replace(model.config, execution="unroll"))
    own = alone(unrolled, task)
    blocks = [
        (stage, block)
        for stage in sorted(name for name in own[0] if name.startswith("stage"))
        for block in sorted(own[0][stage])
    ]
    expected = [[cosine(own[i][s][b], own[j][s][b]) for i, j in PAIRS] for s, b in blocks]
    np.testing.assert_allclose(metrics["task_cosine"], expected, atol=1e-5)
    whole = stack({"params": jax.tree.map(lambda *each: sum(each), *own)}, model.config.execution)["params"]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-6), change, whole)


def test_equal_tasks_agree_and_opposite_ones_oppose_each_other():
    model = network(stages=(1,), head_outputs=("a:3", "b:3", "c:3"), num_classes=9)
    three = [Part(name, "label", Classification(3), weight) for name, weight in (("a", 1.0), ("b", 3.0), ("c", -0.5))]
    state = state_of(model)
    params = {**state.params, "head": {f"classifier_{name}": state.params["head"]["classifier_a"] for name in "abc"}}
    step = make_train_step(model, TX, task=Multitask(9, tuple(three)), probe=BlockNames())
    _, metrics = jax.jit(step)(state.replace(params=params), batch())
    np.testing.assert_allclose(metrics["task_cosine"], [[1.0, -1.0, -1.0]], atol=1e-5)


def by_hand(gradients: list[np.ndarray], key: jax.Array) -> np.ndarray:
    """Algorithm 1 of Yu et al. 2020, word for word, in float64."""
    total = np.zeros_like(gradients[0])
    for i, g in enumerate(gradients):
        projected = g.copy()
        for j in np.asarray(jax.random.permutation(jax.random.fold_in(key, i), len(gradients))).tolist():
            if j != i and projected @ gradients[j] < 0:
                projected -= (projected @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
        total += projected
    return total


@pytest.mark.parametrize("seed", range(6))
def test_pcgrad_is_the_algorithm_as_published(seed):
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    flat = [rng.normal(size=6) - 0.4 * sign for sign in (1, -1, 1, -1)]
    trees = [
        {"stage1": {"kernel": jnp.asarray(g[:4].reshape(2, 2), jnp.float32)}, "stem": {"bias": jnp.float32(g[4:])},
         "head": {"classifier_a": {"bias": jnp.float32([k, 1.0])}}}
        for k, g in enumerate(flat)
    ]  # fmt: skip
    found = pcgrad(trees, key)
    shared = np.concatenate([np.ravel(found["stage1"]["kernel"]), found["stem"]["bias"]])
    np.testing.assert_allclose(shared, by_hand(flat, key), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["head"]["classifier_a"]["bias"], [6.0, 4.0])  # heads keep the sum
    assert not np.allclose(shared, sum(flat))  # something was projected


def test_tasks_that_agree_or_have_no_gradient_are_added():
    key = jax.random.key(0)
    np.testing.assert_array_equal(projected_weights(jnp.array([[2.0, 0.5], [0.5, 1.0]]), key), [1.0, 1.0])
    np.testing.assert_array_equal(projected_weights(jnp.zeros((3, 3)), key), [1.0, 1.0, 1.0])


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "probe"), [(1, False), (2, False), (1, True)])
def test_a_step_with_pcgrad_takes_the_projected_gradient(devices, probe):
    model: Any = network()
    task = Multitask(6, PARTS, "pcgrad")
    change, metrics = one_step(model, task, devices=devices, probe=probe)
    own, key = alone(model, task), jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 3), ORDER)
    shared = [{name: tree for name, tree in each.items() if name != "head"} for each in own]
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64) for tree in shared]
    expected = by_hand(flat, key)
    found = np.concatenate(
        [np.ravel(leaf) for leaf in jax.tree.leaves({n: t for n, t in change.items() if n != "head"})]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-6)
    assert np.abs(expected - sum(flat)).max() > 1e-3  # something was projected
    heads = jax.tree.map(lambda *each: sum(each), *(each["head"] for each in own))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-6), change["head"], heads)
    total = sum(np.mean(each) for each in task.task_losses(outputs_of(model), batch()).values())
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)


def outputs_of(model: ResNet) -> Any:
    state = state_of(model)
    return model.apply({"params": state.params, "batch_stats": state.batch_stats}, batch()["image"], train=False)


@pytest.mark.slow
def test_log_variances_have_the_gradient_of_the_published_loss_and_are_not_decayed():
    """Kendall et al. 2018, eq. 10 and 7: exp(-s) L + s / 2, of squared errors exp(-s) L / 2 + s / 2."""
    model, task = network(head="several_uncertain"), UncertainMultitask(6, PARTS)
    state = state_of(model)
    s = np.array([0.3, -0.7, 1.1], np.float32)
    params = {**state.params, "head": {**state.params["head"], "log_variance": jnp.asarray(s)}}
    step = make_train_step(model, TX, task=task)
    new, metrics = jax.jit(step)(state.replace(params=params), batch())
    plain = Multitask(6, tuple(dataclasses.replace(part, weight=1.0) for part in PARTS))
    losses = {name: np.asarray(each) for name, each in plain.task_losses(outputs_of(model), batch()).items()}
    there = np.array([1.0, 6 / 8, 6 / 8])
    means = np.array([losses[part.name].mean() for part in PARTS]) * [1.0, 1.0, 0.5]
    weights = np.array([part.weight for part in PARTS])
    np.testing.assert_allclose(metrics["loss"], weights @ (np.exp(-s) * means + 0.5 * s * there), rtol=1e-5)
    slope = weights * (0.5 * there - np.exp(-s) * means)
    np.testing.assert_allclose(s - new.params["head"]["log_variance"], slope, rtol=1e-5, atol=1e-6)
    tx, _ = make_optimizer(OptimConfig(weight_decay=0.1), params, steps_per_epoch=10, total_steps=10)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates: Any = tx.update(zero, tx.init(params), params)[0]
    np.testing.assert_array_equal(updates["head"]["log_variance"], 0.0)
    assert np.abs(updates["head"]["classifier_odd"]["kernel"]).max() > 0  # and kernels are
