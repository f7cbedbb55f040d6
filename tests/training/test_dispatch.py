"""Several updates in one call: the numbers of single calls, however they are cut into calls."""

from __future__ import annotations

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.data.augment import Augment, augment, cutout, normalize
from resnet_jax.data.mix import Mix, mix
from resnet_jax.data.order import Sampling
from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.data.records import ArrayRecords
from resnet_jax.errors import RunError
from resnet_jax.training.compile import compile_train_step
from resnet_jax.training.dispatch import chunks, compile_multi_step, make_multi_step, put_resident
from resnet_jax.training.feeds import Call
from resnet_jax.training.loop import train
from resnet_jax.training.loss_scale import LossScaling, init_loss_scale
from resnet_jax.training.mesh import make_mesh, replicated, shard_batch
from resnet_jax.training.plan import Plan, spans
from resnet_jax.training.step import make_train_step
from tests.tools import TinyNet
from tests.training.test_step import new_state, small_model

K, STEPS = 3, 5
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, 70)
IMAGES = np.clip(RNG.normal(20 * LABELS[:, None, None, None], 30, (70, 8, 8, 3)) + 60, 0, 255).astype(np.uint8)
FEED = TrainBatches(ArrayRecords(IMAGES, LABELS), 16, seed=3)  # 4 batches an epoch
DATA = {"image": IMAGES, "label": LABELS}
TX = optax.sgd(0.05, momentum=0.9)


def preprocess(key, batch):
    return normalize(augment(key, batch, Augment(pad=1, flip=True)), (0.4,) * 3, (0.2,) * 3)


def mixing(key, batch):
    return mix(key, cutout(key, preprocess(key, batch), batch, 3), batch, Mix(1.0, 1.0), 5)


def pure_step(model, **options):
    return make_train_step(model, TX, **{"preprocess": preprocess, **options})


def start(mesh, model, *, ema=False, scaling=None):
    state = new_state(model, TX, ema=ema)
    state = state.replace(loss_scale=None if scaling is None else init_loss_scale(scaling))
    return jax.device_put(state, replicated(mesh))


def one_by_one(mesh, step, state):
    compiled, rows = compile_train_step(step, mesh), []
    for number in range(STEPS):
        state, row = compiled(state, shard_batch(FEED.batch(number), mesh))
        rows.append(row)
    return state, {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def in_calls(mesh, compiled, state, calls):
    data, parts = put_resident(DATA, mesh), []
    for (_, count), chunk in zip(calls, chunks(FEED.order, calls, K, mesh), strict=True):
        state, metrics = compiled(state, data, chunk)
        assert {value.shape for value in metrics.values()} == {(K,)}
        parts.append({name: value[:count] for name, value in jax.device_get(metrics).items()})
    return state, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def arrays(state):
    return jax.device_get(state.replace(rng=jax.random.key_data(state.rng)))


GHOST = {"norm_scope": "ghost", "ghost_size": 4, "dropout": 0.3}
DEVICE = {"norm_scope": "device", "norm_devices": 2}


def test_a_chunk_has_the_passes_of_balanced_and_repeated_examples(mesh):
    feed = TrainBatches(ArrayRecords(IMAGES, LABELS), 16, seed=3, sampling=Sampling("classes", 2))
    chunk = next(chunks(feed.order, [(5, 2)], K, mesh))
    for row in range(2):
        batch = feed.batch(5 + row)
        assert len(set(batch["epoch"].tolist())) > 1
        for name in ("index", "epoch"):
            np.testing.assert_array_equal(np.asarray(chunk[name])[row], batch[name])


@pytest.mark.parametrize(
    ("devices", "choices", "options"),
    [
        pytest.param(2, GHOST, {"ema_decay": 0.9, "accumulate": 2, "norm_momentum": 0.9}, marks=pytest.mark.slow),
        pytest.param(2, DEVICE, {"preprocess": mixing}, marks=pytest.mark.slow),
        (2, {"dtype": "float16", "dropout": 0.3}, {"loss_scaling": LossScaling(initial=2.0**24)}),  # at first too large
    ],
)
@pytest.mark.slow
def test_the_same_numbers_as_single_calls(devices, choices, options):
    """Augmentation, dropout, averages, batch norm of each scope, accumulation, mixing, loss scale: all of it."""
    mesh, model = make_mesh(jax.devices()[:devices]), small_model(**choices)
    step, held = pure_step(model, **options), {"ema": "ema_decay" in options, "scaling": options.get("loss_scaling")}
    expected = one_by_one(mesh, step, start(mesh, model, **held))
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(step, n=1)
    found = in_calls(mesh, compile_multi_step(counted, mesh), start(mesh, model, **held), [(0, 3), (3, 2)])
    assert int(found[0].step) == STEPS
    chex.assert_trees_all_close((arrays(found[0]), found[1]), (arrays(expected[0]), expected[1]), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(jax.devices()[:2])


@pytest.fixture(scope="module")
def dropping():
    return small_model(dropout=0.2)


@pytest.fixture(scope="module")
def compiled(mesh, dropping):
    return compile_multi_step(pure_step(dropping), mesh)


def test_how_a_run_is_cut_into_calls_changes_no_bit_and_compiles_nothing_anew(mesh, dropping, compiled):
    model, events = dropping, []
    whole = in_calls(mesh, compiled, start(mesh, model), [(0, 3), (3, 2)])
    state = start(mesh, model)
    jax.monitoring.register_event_duration_secs_listener(lambda event, _seconds, **_: events.append(event))
    cut = in_calls(mesh, compiled, state, [(0, 1), (1, 3), (4, 1)])
    jax.monitoring.clear_event_listeners()
    chex.assert_trees_all_equal((arrays(whole[0]), whole[1]), (arrays(cut[0]), cut[1]))
    assert not [event for event in events if "backend_compile" in event]


def test_the_state_is_donated_and_updates_not_made_are_zero(mesh, dropping, compiled):
    state = start(mesh, dropping)
    chunk = next(chunks(FEED.order, [(0, 1)], K, mesh))
    new, metrics = compiled(state, put_resident(DATA, mesh), chunk)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert int(new.step) == 1
    np.testing.assert_array_equal(metrics["count"], [16, 0, 0])


def test_each_device_gathers_its_own_images_from_its_own_copy(mesh):
    model = TinyNet()
    data = put_resident(DATA, mesh)
    assert {shard.data.nbytes for shard in data["image"].addressable_shards} == {IMAGES.nbytes}
    chunk = next(chunks(FEED.order, [(0, 3)], K, mesh))
    assert {shard.data.shape for shard in chunk["index"].addressable_shards} == {(K, 8)}
    lowered = compile_multi_step(pure_step(model), mesh).lower(start(mesh, model), data, chunk)
    text = lowered.compile().as_text()
    assert text
    assert re.search(r"u8\[8,8,8,3\]", text), "8 of the batch's 16 images are on each device"
    moved = re.findall(r"= \(?(.*) (?:all-gather|all-reduce|all-to-all|collective-permute)[-(]", text)
    assert not [types for types in moved if "u8" in types or re.search(r"\[\d+,8,8,3\]", types)]


def test_a_rejected_update_leaves_the_state_and_the_later_ones_go_on_from_there():
    """Update 2 of 3 has a batch that is not finite; the result is that of the other two."""
    mesh, model = make_mesh(jax.devices()[:1]), TinyNet()
    poisoned = FEED.order(1)[0]

    def poison(key, batch):
        bad = (batch["index"] == poisoned[0])[:, None, None, None]
        return jnp.where(bad, jnp.nan, preprocess(key, batch))

    step = make_train_step(model, TX, preprocess=poison)
    state, metrics = in_calls(mesh, compile_multi_step(step, mesh), start(mesh, model), [(0, 3)])
    np.testing.assert_array_equal(metrics["rejected"], [0, 1, 0])
    single, expected = compile_train_step(step, mesh), start(mesh, model)
    expected, _ = single(expected, FEED.batch(0))
    expected, _ = single(expected.replace(step=expected.step + 1), FEED.batch(2))
    chex.assert_trees_all_close(arrays(state), arrays(expected), rtol=1e-4, atol=1e-5)


def test_the_loop_names_the_update_that_was_rejected_and_reports_none_after_it():
    """The fake call makes updates whose loss is their number; the sixth of ten is rejected."""
    seen = []

    class Log:
        def on_step(self, row):
            seen.append(row["step"])

    def call(state, numbers):
        rows = {name: jnp.ones(4) for name in ("loss", "correct", "count", "grad_norm")}
        return state, {**rows, "rejected": jnp.asarray(numbers) == 6}

    class Fours:
        steps_per_call = 4

        def calls(self, start, stop, boundary=None):
            for first, count in spans(start, stop, 4, boundary):
                yield Call(first, count, lambda state, first=first: call(state, np.arange(first + 1, first + 5)))

    plan = Plan(total_steps=10, steps_per_epoch=10)
    with pytest.raises(RunError, match="diverged at step 6"):
        train(new_state(TinyNet()), plan=plan, feed=Fours(), observers=(Log(),))
    assert seen == [1, 2, 3, 4, 5]


def test_members_of_a_population_take_their_own_examples():
    """The loop goes around any step: here one of two members, whose batches have an axis more."""

    def step(state, batch):
        sums = jax.vmap(lambda image: image.astype(jnp.int32).sum())(batch["image"])
        return state + sums, {"sum": sums}

    index = np.stack([[FEED.order(number)[0], FEED.order(number + 1)[0]] for number in range(K)]).astype(np.int32)
    chunk = {"index": index, "epoch": np.zeros_like(index), "count": np.int32(2)}
    data = {"image": IMAGES, "label": LABELS}
    total, metrics = jax.jit(make_multi_step(step))(jnp.zeros(2, jnp.int32), data, chunk)
    expected = IMAGES[index].sum(axis=(2, 3, 4, 5))
    np.testing.assert_array_equal(metrics["sum"], [*expected[:2], [0, 0]])
    np.testing.assert_array_equal(total, expected[:2].sum(axis=0))
