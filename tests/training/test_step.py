"""The step: the same numbers however it is run, and a rejected one changes nothing."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig
from resnet_jax.tasks.losses import get_loss
from resnet_jax.training.accumulate import pool_statistics
from resnet_jax.training.compile import compile_eval_step, compile_train_step, create_state
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.mesh import DATA_AXIS, check_batch_size, make_mesh, replicated, shard_batch
from resnet_jax.training.pmap import pmap_train_step, replicate, split_batch, unreplicate
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import make_eval_step, make_train_step
from tests.tools import TinyNet, jitted_step, random_variables

SHAPE = (8, 8, 3)
TX = optax.sgd(0.05, momentum=0.9)


def small_model(**choices) -> ResNet:
    return ResNet(ResNetConfig((1,), (4,), stem="cifar", num_classes=5, **choices))


def new_state(model, tx=TX, *, ema=False, seed=0) -> TrainState:
    variables = jax.tree.map(jnp.asarray, random_variables(model, SHAPE, seed))
    averages = jax.tree.map(jnp.copy, variables) if ema else None
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(variables["params"]),
        rng=jax.random.key(seed),
        ema=averages,
    )


def new_batch(size=16, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    # classes with their own brightness: statistics of parts of the batch differ
    label = rng.integers(0, 5, size).astype(np.int32)
    image = rng.normal(size=(size, *SHAPE)) + label[:, None, None, None] / 2
    return {"image": image.astype(np.float32), "label": label}


def run_steps(devices, *, steps=2, **options):
    mesh = make_mesh(jax.devices()[:devices])
    model = small_model()
    step = compile_train_step(make_train_step(model, TX, **options), mesh)
    state = jax.device_put(new_state(model), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    metrics = []
    for seed in range(steps):
        state, row = step(state, shard_batch(new_batch(seed=seed), mesh))
        metrics.append(row)
    return jax.device_get((state.params, state.batch_stats, state.opt_state, metrics))


@pytest.fixture(scope="module")
def on_one_device():
    return run_steps(1)


def test_eight_devices_give_the_numbers_of_one(on_one_device):
    """Loss, gradients (through momentum and their norm), parameters and global batch statistics."""
    chex.assert_trees_all_close(run_steps(8), on_one_device, rtol=1e-4, atol=1e-6)


def test_pmap_gives_the_same_numbers(on_one_device):
    model = small_model(axis_name=DATA_AXIS)
    step = pmap_train_step(make_train_step(model, TX, axis_name=DATA_AXIS))
    state, metrics = replicate(new_state(small_model())), []
    for seed in range(2):
        state, row = step(state, split_batch(new_batch(seed=seed)))
        metrics.append(unreplicate(row))
    state = unreplicate(state)
    got = jax.device_get((state.params, state.batch_stats, state.opt_state, metrics))
    chex.assert_trees_all_close(got, on_one_device, rtol=1e-3, atol=1e-5)


def test_pmap_refuses_a_batch_it_cannot_share():
    with pytest.raises(UsageError, match="batch of 12 cannot be shared equally by 8 devices"):
        split_batch(new_batch(12))


def test_the_step_is_the_textbook_one():
    """Against the same update written out: value_and_grad, optimizer, statistics."""
    model, state, batch = small_model(), new_state(small_model()), new_batch()

    def loss(params):
        logits, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats}, batch["image"], train=True, mutable=["batch_stats"]
        )
        picked = nn.log_softmax(logits) * np.eye(5, dtype=np.float32)[batch["label"]]
        return -picked.sum(axis=1).mean(), (updates["batch_stats"], logits)

    (value, (stats, logits)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(state.params)
    new, metrics = jitted_step(model, TX)(state, batch)
    chex.assert_trees_all_close(new.batch_stats, stats, rtol=1e-5, atol=1e-6)
    expected = jax.tree.map(lambda p, g: p - 0.05 * g, state.params, grads)
    chex.assert_trees_all_close(new.params, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-5)
    assert int(metrics["correct"]) == (np.asarray(logits).argmax(1) == batch["label"]).sum()
    assert (float(metrics["count"]), float(metrics["rejected"]), int(new.step)) == (16, 0, 1)


def test_one_trace_one_compilation_and_a_donated_state():
    mesh, model = make_mesh(), TinyNet()
    step = compile_train_step(chex.assert_max_traces(make_train_step(model, TX), n=1), mesh)
    state = create_state(model, TX, jax.random.key(0), SHAPE, mesh=mesh)
    first, compiled = state, []

    def listen(event, _seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    batches = [shard_batch(new_batch(seed=seed), mesh) for seed in range(4)]
    jax.monitoring.register_event_duration_secs_listener(listen)
    for batch in batches:
        state, _ = step(state, batch)
    jax.monitoring.clear_event_listeners()
    assert len(compiled) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.params))


def test_create_state_is_replicated_and_the_same_on_any_mesh():
    states = [
        create_state(TinyNet(), TX, jax.random.key(3), SHAPE, mesh=make_mesh(jax.devices()[:n]), ema=True)
        for n in (1, 8)
    ]
    one, eight = (jax.device_get((s.params, s.batch_stats, s.ema)) for s in states)
    chex.assert_trees_all_close(one, eight, rtol=1e-6)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(states[1].params))
    chex.assert_trees_all_close(one[2], {"params": one[0], "batch_stats": one[1]})


def moving(state):
    """With a momentum, which a gradient of zeros would let decay."""
    return state.replace(opt_state=jax.tree.map(jnp.ones_like, state.opt_state))


@pytest.mark.parametrize("poison", [np.inf, np.nan])
def test_a_rejected_step_changes_nothing_but_the_position(poison):
    model, batch = TinyNet(), new_batch()
    state = moving(new_state(model, ema=True))
    batch["image"][3, 2, 2, 1] = poison
    new, metrics = jitted_step(model, TX, ema_decay=0.9)(state, batch)
    assert (float(metrics["rejected"]), int(new.step)) == (1, 1)
    for name in ("params", "batch_stats", "opt_state", "ema"):
        chex.assert_trees_all_equal(getattr(new, name), getattr(state, name))


def test_a_step_that_overflows_is_rejected_before_it_can_be_saved():
    """Loss and gradients are finite; the rate is not reasonable."""
    model, tx = TinyNet(), optax.sgd(3e38)
    state = new_state(model, tx)

    def loss(logits, labels):
        return 100.0 * get_loss("cross_entropy")(logits, labels)

    new, metrics = jax.jit(make_train_step(model, tx, loss=loss))(state, new_batch())
    assert np.isfinite([metrics["loss"], metrics["grad_norm"]]).all()
    assert float(metrics["rejected"]) == 1
    chex.assert_trees_all_equal((new.params, new.batch_stats), (state.params, state.batch_stats))


def test_moving_averages_cover_parameters_and_statistics():
    model = TinyNet()
    state = new_state(model, ema=True)
    new, _ = jitted_step(model, TX, ema_decay=0.9)(state, new_batch())
    # the first update has the warm-up decay (1 + 0) / (10 + 0)
    expected = jax.tree.map(lambda old, now: 0.1 * old + 0.9 * now, state.variables, new.variables)
    chex.assert_trees_all_close(new.ema, expected, rtol=1e-5, atol=1e-6)
    assert new.eval_variables is new.ema
    assert state.replace(ema=None).eval_variables.keys() == {"params", "batch_stats"}


class NoNorm(nn.Module):
    @nn.compact
    def __call__(self, x, *, train: bool):
        x = nn.tanh(nn.Conv(4, (3, 3), padding=1)(x))
        return nn.Dense(5)(nn.Dropout(0.0, deterministic=not train)(x.mean(axis=(1, 2))))


def test_accumulation_without_batch_norm_is_the_full_batch():
    """And the step takes anybody's Linen module."""
    mesh, results = make_mesh(jax.devices()[:2]), []
    for accumulate in (1, 2):
        state = jax.device_put(new_state(NoNorm()), replicated(mesh))
        step = compile_train_step(make_train_step(NoNorm(), TX, accumulate=accumulate), mesh)
        state, metrics = step(state, shard_batch(new_batch(), mesh))
        results.append((state.params, metrics))
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


def test_accumulation_with_batch_norm_is_its_stated_definition():
    """Gradients of micro-batches on their own statistics; running statistics of the whole batch, moved once."""
    model = small_model(norm_momentum=0.8)
    state, batch = new_state(model), new_batch()
    new, metrics = jax.jit(make_train_step(model, TX, accumulate=4, norm_momentum=0.8))(state, batch)

    @jax.jit
    def micro(images, labels):
        def loss(params):
            logits, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats}, images, train=True, mutable=["batch_stats"]
            )
            return get_loss("cross_entropy")(logits, labels).mean(), updates["batch_stats"]

        return jax.value_and_grad(loss, has_aux=True)(state.params)

    parts = [micro(batch["image"][j::4], batch["label"][j::4]) for j in range(4)]
    grads = jax.tree.map(lambda *g: sum(g) / 4, *[part[1] for part in parts])
    chex.assert_trees_all_close(
        new.params, jax.tree.map(lambda p, g: p - 0.05 * g, state.params, grads), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(metrics["loss"], np.mean([part[0][0] for part in parts]), rtol=1e-5)

    # The stem sees the same inputs in every definition: its statistics are those of the whole batch.
    old, stem = state.batch_stats["stem"]["norm"], new.batch_stats["stem"]["norm"]
    kernel = state.params["stem"]["conv"]["kernel"]
    y = np.asarray(
        jax.lax.conv_general_dilated(
            batch["image"], kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        np.float64,
    ).reshape(-1, 4)
    np.testing.assert_allclose(stem["mean"], 0.8 * old["mean"] + 0.2 * y.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stem["var"], 0.8 * old["var"] + 0.2 * y.var(0), rtol=1e-4)


def test_pooled_statistics_are_those_of_the_union():
    rng, momentum = np.random.default_rng(0), 0.7
    parts = rng.normal(size=(3, 50, 4)) + rng.normal(size=(3, 1, 1)) * 5
    old = {"mean": rng.normal(size=4), "var": rng.uniform(1, 2, 4)}
    stats = {
        "mean": jnp.asarray(momentum * old["mean"] + (1 - momentum) * parts.mean(1)),
        "var": jnp.asarray(momentum * old["var"] + (1 - momentum) * parts.var(1)),
    }
    pooled = pool_statistics({"layer": {"norm": stats}}, momentum)["layer"]["norm"]
    union = parts.reshape(-1, 4)
    np.testing.assert_allclose(pooled["mean"], momentum * old["mean"] + (1 - momentum) * union.mean(0), rtol=1e-5)
    np.testing.assert_allclose(pooled["var"], momentum * old["var"] + (1 - momentum) * union.var(0), rtol=1e-5)


@pytest.mark.parametrize("execution", ["unroll", pytest.param("scan", marks=pytest.mark.slow)])
def test_accumulated_unbiased_variances_are_those_of_the_whole_batch(execution):
    """The factor n / (n - 1) has n the values of the whole batch, and reaches what is new in the running average."""

    def moved(kind):
        config = ResNetConfig(
            (1 if execution == "unroll" else 3,), (4,), stem="cifar", num_classes=5, execution=execution,
            remat="none" if execution == "unroll" else "block", norm_running_variance=kind,
        )  # fmt: skip
        state = new_state(ResNet(config))
        step = make_train_step(ResNet(config), TX, accumulate=4, norm_momentum=0.9)
        return state.batch_stats, jax.jit(step)(state, new_batch(8))[0].batch_stats

    old, biased = moved("biased")
    _, unbiased = moved("unbiased")
    factor = 8 * 8 * 8 / (8 * 8 * 8 - 1)

    def check(path, start, plain, corrected):
        kept = 0.9 * start
        expected = kept + factor * (plain - kept) if path[-1].key == "var" else plain
        np.testing.assert_allclose(corrected, expected, rtol=1e-6, atol=1e-7)
        assert path[-1].key != "var" or np.abs(corrected - plain).max() > 1e-5

    jax.tree_util.tree_map_with_path(check, old, biased, unbiased)


def test_accumulation_refuses_what_it_cannot_do():
    model = TinyNet()
    state, batch = new_state(model), new_batch()
    with pytest.raises(UsageError, match="accumulate must be 1 or more"):
        make_train_step(model, TX, accumulate=0)
    with pytest.raises(UsageError, match="16 cannot be cut into 3"):
        jax.eval_shape(make_train_step(model, TX, accumulate=3, norm_momentum=0.9), state, batch)
    with pytest.raises(UsageError, match="needs norm_momentum"):
        jax.eval_shape(make_train_step(model, TX, accumulate=2), state, batch)
    with pytest.raises(UsageError, match="batch_stats/layer/count"):
        pool_statistics({"layer": {"count": jnp.ones(3)}}, 0.9)


def test_evaluation_ignores_masked_examples_whatever_they_hold():
    model = TinyNet()
    variables = new_state(model).variables
    batch = {**new_batch(16), "mask": np.arange(16) < 11}
    batch["image"][11:] = np.nan
    batch["label"][11:] = 0  # what argmax says of NaN: it would count as correct
    step = compile_eval_step(make_eval_step(model), make_mesh())
    out = jax.device_get(step(variables, shard_batch(batch, make_mesh())))
    logits = np.asarray(model.apply(variables, batch["image"][:11], train=False), np.float64)
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    np.testing.assert_allclose(out["loss_sum"], -log_p[np.arange(11), batch["label"][:11]].sum(), rtol=1e-5)
    assert out["count"] == 11
    assert out["sums"]["correct"] == (logits.argmax(1) == batch["label"][:11]).sum()
    np.testing.assert_array_equal(out["rows"]["prediction"][:11], logits.argmax(1))


def test_soft_targets_count_their_largest_entry():
    model, state = TinyNet(), new_state(TinyNet())
    hard = new_batch()
    soft = {**hard, "label": np.eye(5, dtype=np.float32)[hard["label"]]}
    step = jitted_step(model, TX)
    (a, ma), (b, mb) = step(state, hard), step(state, soft)
    chex.assert_trees_all_close((a.params, ma), (b.params, mb), rtol=1e-5, atol=1e-6)


def test_preprocessing_gets_the_key_of_the_run_and_the_batch():
    model, state, batch = TinyNet(), new_state(TinyNet()), new_batch()

    def preprocess(key, batch):
        return batch["image"] + jax.random.normal(key, ()) * batch["shift"][:, None, None, None]

    step = jax.jit(make_train_step(model, TX, preprocess=preprocess))
    shifted, _ = step(state, {**batch, "shift": np.ones(16, np.float32)})
    by_hand = batch["image"] + jax.random.normal(state.rng, ())
    expected, _ = jitted_step(model, TX)(state, {**batch, "image": by_hand})
    chex.assert_trees_all_close(shifted.params, expected.params, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_preprocessing_may_return_soft_labels_with_the_images(accumulate):
    """Here of the class after the one in the batch; what is counted as correct goes by them."""
    model, state, batch = TinyNet(), new_state(TinyNet()), new_batch()
    following = (batch["label"] + 1) % 5

    def preprocess(_key, batch):
        soft = 0.7 * nn.one_hot((batch["label"] + 1) % 5, 5) + 0.3 * nn.one_hot(batch["label"], 5)
        return batch["image"], soft

    def run(batch, **options):
        return jitted_step(model, TX, accumulate=accumulate, norm_momentum=0.9, **options)(state, batch)

    found, metrics = run(batch, preprocess=preprocess)
    soft = 0.7 * np.eye(5, dtype=np.float32)[following] + 0.3 * np.eye(5, dtype=np.float32)[batch["label"]]
    expected, wanted = run({**batch, "label": soft})
    chex.assert_trees_all_close((found.params, metrics), (expected.params, wanted), rtol=1e-5, atol=1e-6)
    _, before = run({**batch, "label": np.roll(soft, -1, axis=1)})
    assert float(metrics["correct"]) != float(before["correct"]), "counted by the labels that came out"


@pytest.mark.parametrize(("size", "accumulate", "good"), [(12, 1, "8 or 16"), (24, 2, "16 or 32"), (3, 1, "8 or 16")])
def test_batches_that_devices_cannot_share_are_refused(size, accumulate, good):
    with pytest.raises(UsageError, match=f"batch of {size} .* such as {good}"):
        check_batch_size(size, make_mesh(), accumulate=accumulate)
    check_batch_size(32, make_mesh(), accumulate=accumulate)


def test_a_label_of_no_class_rejects_the_update():
    """From Python nothing else can be told on the device; the loss was too small, in silence."""
    model, batch = TinyNet(), new_batch()
    state, step = new_state(model), jitted_step(model, TX)
    for label in (5, -1):
        batch["label"][3] = label
        new, metrics = step(state, batch)
        assert float(metrics["rejected"]) == 1
        assert np.isnan(metrics["loss"])
        chex.assert_trees_all_equal(new.params, state.params)


def test_labels_on_the_host_are_checked_where_the_classes_are_known():
    mesh, batch = make_mesh(), new_batch() | {"mask": np.ones(16, bool)}
    batch["label"][[3, 7]] = -1
    with pytest.raises(
        ValueError, match=r"label -1 of example 3 of the batch is outside 0..4, .* 2 such labels among 16"
    ):
        shard_batch(batch, mesh, num_classes=5)
    padded = batch | {"mask": batch["label"] >= 0}
    shard_batch(padded, mesh, num_classes=5)
    model = TinyNet()
    variables = random_variables(model, SHAPE, 0)
    step = compile_eval_step(make_eval_step(model), mesh)
    with pytest.raises(ValueError, match="label -1 of example 3"):
        evaluate(step, variables, [batch], mesh=mesh, num_classes=5)
    found = evaluate(step, variables, [padded], mesh=mesh, num_classes=5)
    assert (found.examples, np.isfinite(found.loss)) == (14, True), "padding has any label"


class Drops(nn.Module):
    """Dropout on the logits themselves: the loss tells what was dropped."""

    @nn.compact
    def __call__(self, x, *, train):
        logits = self.param("w", nn.initializers.ones, (1, 1)) * x.reshape(x.shape[0], -1)[:, :5]
        return nn.Dropout(0.5, deterministic=not train)(logits)


def drop_state(seed=0):
    params = {"w": jnp.ones((1, 1))}
    return TrainState(jnp.zeros((), jnp.int32), params, {}, STILL.init(params), jax.random.key(seed))


STILL = optax.sgd(0.0)


def test_every_step_drops_other_units_and_the_same_ones_when_made_again():
    """Of the same batch with the same parameters; which is what resuming at that step needs."""
    step, batch = jax.jit(make_train_step(Drops(), STILL)), new_batch()
    state, losses = drop_state(), []
    for _ in range(6):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 6
    _, again = step(drop_state().replace(step=jnp.int32(4)), batch)
    assert float(again["loss"]) == losses[4]
    _, other = step(drop_state(seed=1), batch)
    assert float(other["loss"]) != losses[0]


def test_every_micro_batch_drops_other_units():
    """Two equal halves: with the same units dropped in both the loss would be that of one half."""
    half = new_batch(8)
    batch = {name: np.repeat(value, 2, axis=0) for name, value in half.items()}
    _, both = jax.jit(make_train_step(Drops(), STILL, accumulate=2))(drop_state(), batch)
    key = jax.random.fold_in(drop_state().rng, 0)

    def one(key):
        logits = Drops().apply({"params": drop_state().params}, half["image"], train=True, rngs={"dropout": key})
        return float(get_loss("cross_entropy")(logits, half["label"]).mean())

    losses = [one(part) for part in jax.random.split(key, 2)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(both["loss"], np.mean(losses), rtol=1e-6)


def test_every_device_of_a_mapped_axis_drops_other_units():
    half = new_batch(2)
    batch = {name: np.tile(value, (8, *(1,) * (value.ndim - 1))) for name, value in half.items()}
    step = pmap_train_step(make_train_step(Drops(), STILL, axis_name=DATA_AXIS))
    _, metrics = step(replicate(drop_state()), split_batch(batch))
    key, losses = jax.random.fold_in(drop_state().rng, 0), []
    for device in range(8):
        rngs = {"dropout": jax.random.fold_in(key, device)}
        logits = Drops().apply({"params": drop_state().params}, half["image"], train=True, rngs=rngs)
        losses.append(float(get_loss("cross_entropy")(logits, half["label"]).mean()))
    assert len(set(losses)) > 4
    np.testing.assert_allclose(unreplicate(metrics)["loss"], np.mean(losses), rtol=1e-6)
