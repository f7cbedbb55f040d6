"""The loss scale: how it moves, that it changes no gradient, and that a skipped step moves nothing else."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.errors import RunError, UsageError
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.compile import create_state
from resnet_jax.training.ema import Averaging
from resnet_jax.training.feeds import SingleSteps
from resnet_jax.training.loop import train
from resnet_jax.training.loss_scale import LossScaling, init_loss_scale, next_loss_scale
from resnet_jax.training.mesh import make_mesh, replicated
from resnet_jax.training.plan import Plan
from resnet_jax.training.population import compile_population_step, population_size, stack_members
from resnet_jax.training.progress import Progress
from resnet_jax.training.step import make_train_step
from tests.tools import TinyNet, jitted_step
from tests.training.test_step import SHAPE, TX, moving, new_batch, new_state, small_model

HELD = ("params", "batch_stats", "opt_state", "ema")


def scaled_state(model, scaling, tx=TX, **options):
    return new_state(model, tx, **options).replace(loss_scale=init_loss_scale(scaling))


def test_it_halves_on_overflow_doubles_after_so_many_good_steps_and_stays_in_its_bounds():
    scaling = LossScaling(initial=4.0, growth_every=3, minimum=2.0, maximum=8.0)
    state, seen = init_loss_scale(scaling), []
    for finite in [True, True, False, True, True, False, *[True] * 9]:
        state = next_loss_scale(state, jnp.asarray(finite), scaling)
        seen.append((float(state.scale), int(state.good_steps)))
    assert seen[:6] == [(4, 1), (4, 2), (2, 0), (2, 1), (2, 2), (2, 0)]
    assert [scale for scale, _ in seen[6:]] == [2, 2, 4, 4, 4, 8, 8, 8, 8]
    assert (state.scale.dtype, state.good_steps.dtype) == (jnp.float32, jnp.int32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"initial": 0.5}, "initial must be between minimum 1 and maximum 1.67772e"),
        ({"initial": 2.0**25}, "got 3.3"),
        ({"minimum": 0.0}, "minimum must be positive, got 0"),
        ({"growth_every": 0}, "growth_every must be 1 or more, got 0"),
    ],
)
def test_rules_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        LossScaling(**fields)


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_in_float32_it_changes_nothing(accumulate):
    """A power of two is exact, and loss and gradients are divided by it again."""
    model, scaling = TinyNet(), LossScaling(initial=2.0**10)
    options = {"accumulate": accumulate, "norm_momentum": 0.9}
    plain, expected = jitted_step(model, TX, **options)(new_state(model), new_batch())
    step = jitted_step(model, TX, loss_scaling=scaling, **options)
    scaled, metrics = step(scaled_state(model, scaling), new_batch())
    chex.assert_trees_all_close(scaled.params, plain.params, rtol=1e-6, atol=1e-7)
    assert {name: float(metrics[name]) for name in ("loss_scale", "skipped", "rejected")} == {
        "loss_scale": 1024, "skipped": 0, "rejected": 0,
    }  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6)
    assert int(scaled.loss_scale.good_steps) == 1


def test_a_skipped_step_halves_the_scale_and_holds_all_else():
    model, scaling, batch = TinyNet(), LossScaling(initial=4.0), new_batch()
    batch["image"][3, 2, 2, 1] = np.inf
    state = moving(scaled_state(model, scaling, ema=True))
    step = jax.jit(make_train_step(model, TX, ema_decay=0.9, loss_scaling=scaling))
    seen = []
    for number in range(1, 4):
        new, metrics = step(state, batch)
        chex.assert_trees_all_equal(*[[getattr(s, name) for name in HELD] for s in (new, state)])
        assert int(new.step) == number
        seen.append([float(metrics[name]) for name in ("loss_scale", "skipped", "rejected")])
        state = new
    assert seen == [[4, 1, 0], [2, 1, 0], [1, 0, 1]], "at the least scale it is an error"


def test_averages_begin_with_the_first_update_made_and_not_with_steps_skipped():
    """With warm-up none the first update is copied, however many steps were skipped before it."""
    model, scaling, bad = TinyNet(), LossScaling(initial=4.0), new_batch()
    bad["image"][3, 2, 2, 1] = np.inf
    tx = optax.sgd(lambda count: 0.05)  # has a count, as all of this library's
    state = scaled_state(model, scaling, tx, ema=True)
    step = jax.jit(make_train_step(model, tx, ema_decay=Averaging(0.99, "none"), loss_scaling=scaling))
    state, _ = step(state, bad)
    state, _ = step(state, new_batch())
    chex.assert_trees_all_equal(state.ema, state.variables)
    before = state.variables
    state, _ = step(state, new_batch(seed=1))
    expected = jax.tree.map(lambda old, new: 0.99 * old + 0.01 * new, before, state.variables)
    chex.assert_trees_all_close(state.ema, expected, rtol=1e-5, atol=1e-6)


def test_a_scale_too_large_for_float16_comes_down_until_the_gradients_are_finite():
    model, scaling = small_model(dtype="float16"), LossScaling(initial=2.0**24)
    state, step = scaled_state(model, scaling), jax.jit(make_train_step(model, TX, loss_scaling=scaling))
    seen = []
    for _ in range(16):
        state, metrics = step(state, new_batch())
        assert np.isfinite(metrics["loss"])
        seen.append(bool(metrics["skipped"]))
    skips = sum(seen)
    assert 1 <= skips < 14
    assert seen == [True] * skips + [False] * (16 - skips)
    assert float(state.loss_scale.scale) == 2.0 ** (24 - skips)


def test_the_schedule_counts_updates_made_and_not_steps_skipped():
    """The rate falls from 1 to 0 with the first update; a skipped step before it leaves it at 1."""
    model, scaling = TinyNet(), LossScaling()
    tx = optax.sgd(lambda count: jnp.where(count == 0, 1e-3, 0.0))
    state = scaled_state(model, scaling, tx)
    step = jax.jit(make_train_step(model, tx, loss_scaling=scaling))
    bad = new_batch()
    bad["image"][0] = np.nan
    skipped, _ = step(state, bad)
    made, _ = step(skipped, new_batch())
    expected, _ = step(state, new_batch())
    chex.assert_trees_all_equal(made.params, expected.params)
    after, _ = step(made, new_batch())
    chex.assert_trees_all_equal(after.params, made.params)


def test_state_and_step_must_agree():
    model, scaling = TinyNet(), LossScaling()
    for state, options in ((new_state(model), {"loss_scaling": scaling}), (scaled_state(model, scaling), {})):
        with pytest.raises(UsageError, match="must both have a loss scale or none"):
            jax.eval_shape(make_train_step(model, TX, **options), state, new_batch())


def test_it_is_saved_and_restored(tmp_path):
    model, scaling = TinyNet(), LossScaling()
    mesh = make_mesh(jax.devices()[:2])
    state = create_state(model, TX, jax.random.key(0), SHAPE, mesh=mesh, loss_scaling=scaling)
    moved = state.replace(loss_scale=next_loss_scale(state.loss_scale, jnp.asarray(False), scaling))
    moved = jax.device_put(moved, state.step.sharding)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", moved, {"a": 1})
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore("last", state)
    assert float(restored.loss_scale.scale) == scaling.initial / 2
    chex.assert_trees_all_equal(restored.loss_scale, moved.loss_scale)


def test_members_of_a_population_have_scales_of_their_own():
    model, scaling, mesh = TinyNet(), LossScaling(), make_mesh(jax.devices()[:2])
    states = jax.device_put(stack_members([scaled_state(model, scaling, seed=seed) for seed in range(2)]),
                            replicated(mesh))  # fmt: skip
    step = compile_population_step(make_train_step(model, TX, loss_scaling=scaling), mesh)
    batch = {name: np.stack([value, value]) for name, value in new_batch().items()}
    batch["image"][1] = np.nan
    states, metrics = step(states, batch)
    assert population_size(states) == 2
    np.testing.assert_array_equal(metrics["skipped"], [0, 1])
    np.testing.assert_array_equal(states.loss_scale.scale, [scaling.initial, scaling.initial / 2])


class Log:
    def __init__(self):
        self.steps, self.epochs = [], []

    def on_step(self, row):
        self.steps.append(row)

    def on_epoch(self, row):
        self.epochs.append(row)


def run_loop(skipped=(), rejected=None):
    """The loop on a counting step that skips some; the loss of step n is n, of a skipped one NaN."""

    def step(state, number):
        metrics = {"loss": np.nan if number in skipped else number, "correct": 1, "count": 2, "grad_norm": 3}
        metrics |= {"skipped": number in skipped, "rejected": number == rejected, "loss_scale": 8}
        return state, {name: jnp.float32(value) for name, value in metrics.items()}

    log = Log()
    _, progress = train(
        new_state(TinyNet()),
        plan=Plan(6, 3),
        feed=SingleSteps(step, lambda start, stop: iter(range(start + 1, stop + 1))),
        observers=(log,),
    )
    return progress, log


def test_the_loop_counts_skipped_steps_and_leaves_them_out_of_the_means():
    progress, log = run_loop(skipped=(1, 5))
    assert [row["skipped"] for row in log.steps] == [1, 1, 1, 1, 2, 2]
    assert [row["loss_scale"] for row in log.steps] == [8] * 6
    assert [row["loss"] for row in log.epochs] == [2.5, 5.0]
    assert progress.members[0].skipped == 2
    assert Progress.from_json(progress.to_json()) == progress


def test_an_epoch_of_which_every_step_was_skipped_has_no_means():
    _, log = run_loop(skipped=(1, 2, 3))
    assert np.isnan([log.epochs[0]["loss"], log.epochs[0]["accuracy"]]).all()
    assert log.epochs[1]["loss"] == 5


def test_when_no_smaller_scale_is_left_the_run_ends_and_says_what_to_look_at():
    with pytest.raises(RunError, match=r"diverged at step 4.*loss scale down at 8.*range of float16.*bfloat16"):
        run_loop(rejected=4)
