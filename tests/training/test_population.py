"""A population equals its members trained one by one, and a member that diverges disturbs nobody."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from resnet_jax.data.augment import Augment, augment, normalize
from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.data.records import ArrayRecords
from resnet_jax.errors import UsageError
from resnet_jax.training.compile import compile_eval_step, compile_train_step, create_state
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.mesh import make_mesh, replicated, shard_batch
from resnet_jax.training.optimizers import OPTIMIZERS, OptimConfig, make_optimizer
from resnet_jax.training.population import (
    BATCH_AXIS,
    compile_population_eval_step,
    compile_population_step,
    create_population,
    evaluate_population,
    member,
    population_size,
    stack_batches,
    stack_members,
    with_rate_scale,
)
from resnet_jax.training.schedules import ScheduleConfig
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import make_eval_step, make_train_step
from tests.tools import random_variables

SHAPE = (8, 8, 3)
STEPS = 4


class Net(nn.Module):
    """A convolution, batch norm and dropout: small enough to compile often."""

    @nn.compact
    def __call__(self, x, *, train: bool):
        x = nn.Conv(4, (3, 3), padding=1, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.Dropout(0.2, deterministic=not train)(x.mean(axis=(1, 2)))
        return nn.Dense(5, name="head")(x)


def keys_of(seeds):
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def records(count=48):
    rng = np.random.default_rng(0)
    label = np.arange(count) % 5
    image = rng.integers(0, 120, (count, *SHAPE)) + 25 * label[:, None, None, None]
    return ArrayRecords(image.astype(np.uint8), label)


def preprocess(key, batch):
    images = normalize(augment(key, batch, Augment(pad=2, flip=True)), (0.4,) * 3, (0.2,) * 3)
    return images * batch["factor"][:, None, None, None] if "factor" in batch else images


def feeds_of(seeds, size=16):
    return [TrainBatches(records(), size, seed=seed) for seed in seeds]


def float_leaves(state):
    return jax.device_get((state.params, state.batch_stats, state.opt_state))


def test_population_equals_the_separate_runs_step_by_step():
    """Each seed with its order, its crops, a rate of its own; seed 7 sees a NaN in its third step.

    Both sides run on two devices; float32, where the vmapped convolution may add in another order: 2e-5 relative.
    """
    order, scales = (2, 7, 5), {2: 1.0, 5: 0.25, 7: 4.0}
    chex.clear_trace_counter()
    mesh = make_mesh(jax.devices()[:2])
    model = Net()
    tx = with_rate_scale(optax.sgd(0.05, momentum=0.9))
    step = make_train_step(model, tx, preprocess=preprocess)
    together = compile_population_step(chex.assert_max_traces(step, n=1), mesh)
    alone = compile_train_step(step, mesh)

    states = create_population(
        model, tx, keys_of(order), SHAPE, mesh=mesh, rate_scales=[scales[seed] for seed in order]
    )
    singles = [jax.device_put(member(states, index), replicated(mesh)) for index in range(3)]
    assert [float(single.opt_state.scale) for single in singles] == [scales[seed] for seed in order]
    feeds, rejected = feeds_of(order), {seed: [] for seed in order}
    for number in range(STEPS):
        host = [feed.batch(number) for feed in feeds]
        for seed, batch in zip(order, host, strict=True):
            poisoned = (seed == 7) & (number == 2) & (np.arange(16) == 3)
            batch["factor"] = np.where(poisoned, np.nan, 1.0).astype(np.float32)
        states, metrics = together(states, shard_batch(stack_batches(host), mesh, BATCH_AXIS))
        for index, seed in enumerate(order):
            singles[index], expected = alone(singles[index], shard_batch(host[index], mesh))
            got = {name: value[index] for name, value in metrics.items()}
            chex.assert_trees_all_close(jax.device_get(got), jax.device_get(expected), rtol=2e-5, atol=1e-6)
            one = member(states, index)
            chex.assert_trees_all_close(float_leaves(one), float_leaves(singles[index]), rtol=2e-5, atol=2e-6)
            assert int(one.step) == number + 1
            rejected[seed].append(bool(got["rejected"]))
    assert rejected == {2: [False] * 4, 5: [False] * 4, 7: [False, False, True, False]}
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(states.params))


def test_members_start_as_the_states_of_their_keys():
    mesh, tx = make_mesh(jax.devices()[:2]), optax.adam(1e-3)
    states = create_population(Net(), tx, keys_of([3, 4]), SHAPE, mesh=mesh, ema=True)
    assert population_size(states) == 2
    for index, seed in enumerate((3, 4)):
        single = create_state(Net(), tx, jax.random.key(seed), SHAPE, mesh=mesh, ema=True)
        got = member(states, index)
        assert jax.tree.structure(got) == jax.tree.structure(single)
        chex.assert_trees_all_close(float_leaves(got), float_leaves(single), rtol=1e-6)
        chex.assert_trees_all_close(got.ema, single.ema, rtol=1e-6)
        assert jnp.array_equal(jax.random.key_data(got.rng), jax.random.key_data(single.rng))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.slow
def test_a_rate_scale_is_a_learning_rate_for_every_optimizer(name):
    """Clipped, decayed, under warm-up and cosine: members at 4 and 1/2 times the rate against such runs."""
    scales, rng = (4.0, 0.5), np.random.default_rng(0)
    shapes = {"conv": {"kernel": (3, 3, 2, 4)}, "norm": {"scale": (4,)}, "head": {"kernel": (4, 5), "bias": (5,)}}

    def draw():
        return {m: {n: rng.normal(size=s).astype(np.float32) for n, s in part.items()} for m, part in shapes.items()}

    start, gradients = draw(), [draw() for _ in range(4)]
    gradients = jax.tree.map(lambda *leaves: np.stack(leaves), *gradients)

    def optimizer(scale):
        schedule = ScheduleConfig(kind="cosine", warmup="2 steps", warmup_start_factor=0.5)
        config = OptimConfig(name, 0.01 * scale, weight_decay=0.1, clip_norm=1.0, schedule=schedule)
        return make_optimizer(config, start, steps_per_epoch=3, total_steps=9)[0]

    def run(tx, opt_state):
        def update(held, gradient):
            params, opt_state = held
            updates, opt_state = tx.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(update, (jax.tree.map(jnp.asarray, start), opt_state), gradients)[0][0]

    tx = with_rate_scale(optimizer(1.0))
    one = tx.init(start)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), one)._replace(scale=jnp.asarray(scales))
    together = jax.jit(jax.vmap(lambda state: run(tx, state)))(states)
    alone = [optimizer(scale) for scale in scales]
    for index, expected in enumerate(jax.jit(lambda: [run(tx, tx.init(start)) for tx in alone])()):
        got = jax.tree.map(lambda leaf, index=index: leaf[index], together)
        chex.assert_trees_all_close(got, expected, rtol=2e-6, atol=2e-6)


def test_evaluation_is_that_of_each_member():
    mesh = make_mesh(jax.devices()[:2])
    states = create_population(Net(), optax.sgd(0.1), keys_of([0, 1, 2]), SHAPE, mesh=mesh)
    step = make_eval_step(Net(), preprocess=lambda key, batch: batch["image"].astype(jnp.float32) / 255, logits=True)
    together, alone = compile_population_eval_step(step, mesh), compile_eval_step(step, mesh)
    data = records(21)
    batches = [
        {
            "image": np.concatenate([data.images[start : start + 16], np.zeros((pad, *SHAPE), np.uint8)]),
            "label": np.concatenate([data.labels[start : start + 16], np.zeros(pad, np.int32)]).astype(np.int32),
            "mask": np.arange(16) < 16 - pad,
        }
        for start, pad in ((0, 0), (16, 11))
    ]
    got = evaluate_population(together, states.eval_variables, batches, mesh=mesh, num_classes=5)
    assert len({tuple(np.asarray(result.confusion).ravel()) for result in got}) > 1, "the members should differ"
    for index, result in enumerate(got):
        expected = evaluate(alone, member(states, index).eval_variables, batches, mesh=mesh, num_classes=5)
        assert (result.correct, result.examples) == (expected.correct, 21)
        assert result.loss == pytest.approx(expected.loss, rel=1e-5)
        np.testing.assert_array_equal(result.confusion, expected.confusion)
        np.testing.assert_allclose(result.logits, expected.logits, rtol=1e-5, atol=1e-6)


def test_stacking_and_taking_out_are_inverse():
    tx = optax.sgd(0.1)
    singles = []
    for seed in (0, 1):
        variables = jax.tree.map(jnp.asarray, random_variables(Net(), SHAPE, seed))
        key, start = jax.random.key(seed), tx.init(variables["params"])
        singles.append(TrainState(jnp.int32(0), variables["params"], variables["batch_stats"], start, key))
    states = stack_members(singles)
    for index, single in enumerate(singles):
        chex.assert_trees_all_equal(member(states, index).params, single.params)
        assert jnp.array_equal(member(states, index).rng, single.rng)


def test_requests_that_make_no_population_are_refused():
    mesh, tx = make_mesh(jax.devices()[:1]), optax.sgd(0.1)
    with pytest.raises(UsageError, match=r"shape \(members,\), got shape \(\)"):
        create_population(Net(), tx, jax.random.key(0), SHAPE, mesh=mesh)
    with pytest.raises(UsageError, match="got 3 learning-rate scales for 2 members"):
        create_population(Net(), tx, keys_of([0, 1]), SHAPE, mesh=mesh, rate_scales=(1, 2, 3))
    with pytest.raises(UsageError, match="with_rate_scale"):
        create_population(Net(), tx, keys_of([0, 1]), SHAPE, mesh=mesh, rate_scales=(1, 2))
    with pytest.raises(UsageError, match="one or more states"):
        stack_members([])
    state = TrainState(jnp.zeros(2, jnp.int32), {}, {}, {}, keys_of([0, 1]))
    with pytest.raises(UsageError, match=r"no member 2: the population has members 0\.\.1"):
        member(state, 2)
