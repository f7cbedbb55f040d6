"""The population's loop against the loop of one run: the same rows, the same divergence, resumed to the same bits."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from hypothesis import given, strategies as st

from resnet_jax.errors import RunError
from resnet_jax.training.cadence import Cadence
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.compile import compile_train_step
from resnet_jax.training.early_stopping import EarlyStopping, EarlyStoppingState
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.feeds import SingleSteps
from resnet_jax.training.interrupt import StopRequest
from resnet_jax.training.loop import Interrupted, train
from resnet_jax.training.loss_scale import LossScaling
from resnet_jax.training.members import restore
from resnet_jax.training.mesh import make_mesh, replicated
from resnet_jax.training.placement import Placement
from resnet_jax.training.plan import Plan, Reject
from resnet_jax.training.population import (
    BATCH_AXIS,
    compile_population_step,
    create_population,
    member,
    stack_batches,
)
from resnet_jax.training.progress import EpochSums, MemberProgress, Progress
from resnet_jax.training.step import make_train_step

SEEDS, SHAPE, PLAN = (0, 1, 2), (4,), Plan(total_steps=10, steps_per_epoch=4, on_reject=Reject("record"))
TX = optax.sgd(0.1, momentum=0.9)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train: bool):
        return nn.Dense(3)(x)


def batch_of(seed, step, poison=None):
    rng = np.random.default_rng([seed, step])
    image = rng.normal(size=(8, 4)).astype(np.float32)
    if (seed, step) == poison:
        image[0, 0] = np.nan
    return {"image": image, "label": rng.integers(0, 3, 8).astype(np.int32)}


def evaluation_of(params):
    """Return something that depends on the parameters of one member."""
    value = float(np.abs(np.asarray(params["Dense_0"]["kernel"])).sum())
    return Evaluation(value, 100, {"accuracy": int(value) / 100})


class Recorder:
    """An observer of either loop; of a population it keeps the member that it is told to."""

    def __init__(self, index=None):
        self.index, self.epochs, self.divergences = index, [], []

    def on_epoch(self, row):
        if row.get("member") == self.index:
            self.epochs.append({key: row[key] for key in row if key not in ("member", "images_per_second")})

    def on_divergence(self, row):
        if row["member"] == self.index:
            self.divergences.append(row)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def step(mesh):
    return compile_population_step(make_train_step(Linear(), TX), mesh)


@functools.cache
def first_states(mesh):
    keys = jnp.stack([jax.random.key(seed) for seed in SEEDS])
    return create_population(Linear(), TX, keys, SHAPE, mesh=mesh)


def new_states(mesh):
    """Copies: a step is given its state's memory."""
    return jax.tree.map(jnp.copy, first_states(mesh))


@functools.cache
def step_alone(mesh):
    return compile_train_step(make_train_step(Linear(), TX), mesh)


def run(mesh, step, *, poison=None, states=None, plan=PLAN, evaluate=None, **options):
    def batches(start, stop):
        return (stack_batches([batch_of(seed, t, poison) for seed in SEEDS]) for t in range(start, stop))

    def each(states):
        return [evaluation_of(member(states, index).params) for index in range(3)]

    states = new_states(mesh) if states is None else states
    feed = SingleSteps(step, batches, Placement(mesh), BATCH_AXIS)
    return train(states, plan=plan, feed=feed, evaluate=evaluate or each, **options)


def run_alone(mesh, seed, *, poison=None, recorder=None, plan=PLAN):
    state = jax.device_put(member(new_states(mesh), SEEDS.index(seed)), replicated(mesh))
    return train(
        state,
        plan=dataclasses.replace(plan, on_reject=Reject()),
        feed=SingleSteps(step_alone(mesh), lambda start, stop: (batch_of(seed, t, poison) for t in range(start, stop))),
        evaluate=lambda state: evaluation_of(state.params),
        observers=(recorder,) if recorder else (),
    )


def near(rows, expected):
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("epochs", [1, 2])
def test_every_member_reports_what_its_own_run_reports(mesh, step, epochs):
    plan = dataclasses.replace(PLAN, validate=Cadence(period=4 * epochs))
    recorders = [Recorder(index) for index in range(3)]
    states, progress = run(mesh, step, plan=plan, observers=recorders)
    assert (progress.finished, progress.diverged) == ("steps", (None, None, None))
    assert progress.seconds > 0
    for index, seed in enumerate(SEEDS):
        alone = Recorder()
        state, _ = run_alone(mesh, seed, recorder=alone, plan=plan)
        near(recorders[index].epochs, alone.epochs)
        chex.assert_trees_all_close(member(states, index).params, state.params, rtol=1e-5, atol=1e-6)


def test_a_divergence_is_written_down_where_the_run_alone_stops_and_the_others_go_on(mesh, step):
    poison, recorders = (1, 5), [Recorder(index) for index in range(3)]
    states, progress = run(mesh, step, poison=poison, observers=recorders)
    clean, _ = run(mesh, step)
    with pytest.raises(RunError, match="diverged at step 6"):
        run_alone(mesh, 1, poison=poison)
    assert (progress.finished, progress.diverged, progress.running) == ("steps", (None, 6, None), [0, 2])
    assert [len(recorder.epochs) for recorder in recorders] == [3, 1, 3]
    [row] = recorders[1].divergences
    assert (row["step"], row["epoch"]) == (6, 1.5)
    assert math.isnan(row["loss"])
    for index in (0, 2):
        assert not recorders[index].divergences
        chex.assert_trees_all_equal(member(states, index).params, member(clean, index).params)


def test_a_step_that_the_loss_scale_skips_is_no_divergence_and_not_in_the_means(mesh):
    scaling, recorders = LossScaling(), [Recorder(index) for index in range(3)]
    keys = jnp.stack([jax.random.key(seed) for seed in SEEDS])
    states = create_population(Linear(), TX, keys, SHAPE, mesh=mesh, loss_scaling=scaling)
    scaled = compile_population_step(make_train_step(Linear(), TX, loss_scaling=scaling), mesh)
    states, progress = run(mesh, scaled, poison=(1, 5), states=states, observers=recorders)
    assert (progress.finished, progress.diverged) == ("steps", (None, None, None))
    np.testing.assert_array_equal(states.loss_scale.scale, [scaling.initial / (1 + (seed == 1)) for seed in SEEDS])
    assert [len(recorder.epochs) for recorder in recorders] == [3, 3, 3]
    assert np.isfinite([row["loss"] for row in recorders[1].epochs]).all()


def test_it_ends_when_all_have_diverged(mesh):
    tx = optax.sgd(math.inf)
    keys = jnp.stack([jax.random.key(seed) for seed in SEEDS])
    states = create_population(Linear(), tx, keys, SHAPE, mesh=mesh)
    step = compile_population_step(make_train_step(Linear(), tx), mesh)
    states, progress = run(mesh, step, states=states, plan=Plan(1000, 500, on_reject=Reject("record")))
    assert (progress.finished, progress.diverged) == ("all diverged", (1, 1, 1))
    assert int(states.step[0]) < 10
    again, same = run(mesh, step, states=states, plan=Plan(1000, 500, on_reject=Reject("record")), progress=progress)
    assert again is states
    assert same == progress


class StopAt(StopRequest):
    """Ask to stop when looked at for the n-th time: after step n of the session."""

    def __init__(self, steps):
        super().__init__()
        self._left = steps

    def __bool__(self):
        self._left -= 1
        if self._left == 0:
            self.signal = signal.SIGTERM
        return self.signal is not None


@pytest.mark.parametrize("stop_after", [3, 6])
def test_stopped_and_resumed_it_ends_at_the_same_bits(mesh, step, tmp_path, stop_after):
    """In the middle of the first epoch, and after a member has diverged."""
    whole = Recorder(0)
    expected, ending = run(mesh, step, poison=(1, 4), observers=[whole])
    parts = Recorder(0)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(Interrupted) as stopped:
        run(mesh, step, poison=(1, 4), observers=[parts], checkpoints=checkpoints, stop=StopAt(stop_after))
    assert stopped.value.step == stop_after
    with Checkpoints(tmp_path) as checkpoints:
        states, progress = restore(checkpoints, "last", new_states(mesh))
        assert states.step.tolist() == [stop_after] * 3
        states, progress = run(
            mesh, step, poison=(1, 4), observers=[parts], checkpoints=checkpoints, states=states, progress=progress
        )
    chex.assert_trees_all_equal(jax.device_get(states.params), jax.device_get(expected.params))
    assert (progress.diverged, progress.finished) == (ending.diverged, ending.finished) == ((None, 5, None), "steps")
    assert parts.epochs == whole.epochs


RULE = EarlyStopping(patience=1)
STOPPING = dataclasses.replace(PLAN, total_steps=20, early_stopping=RULE)
#: Accuracies of each member at its validations, every 4 steps: they stop after 8 steps, not at all, and after 16.
SCORES = ((50, 40, 90, 90, 90), (10, 20, 30, 40, 50), (30, 50, 60, 55, 99))


def scored(seed=None):
    """Validation by the number of steps done, of all members or of that with this seed."""

    def evaluate(state):
        turn = -(-int(np.max(state.step)) // 4) - 1
        results = [Evaluation(0.5, 100, {"accuracy": SCORES[index][turn] / 100}) for index in range(3)]
        return results if seed is None else results[SEEDS.index(seed)]

    return evaluate


@functools.cache
def alone_until_it_stopped(mesh, seed, folder):
    """Return the state and progress of a run that stops early, and its best state."""
    state = jax.device_put(member(new_states(mesh), SEEDS.index(seed)), replicated(mesh))
    feed = SingleSteps(step_alone(mesh), lambda start, stop: (batch_of(seed, t) for t in range(start, stop)))
    with Checkpoints(folder) as checkpoints:
        state, progress = train(
            state, plan=STOPPING, feed=feed, evaluate=scored(seed), checkpoints=checkpoints
        )  # fmt: skip
        checkpoints.close()
        return state, progress, restore(checkpoints, "best", state)[0]


@pytest.fixture(scope="module")
def alone(mesh, tmp_path_factory):
    """Every member trained alone with early stopping."""
    return [alone_until_it_stopped(mesh, seed, tmp_path_factory.mktemp(f"seed{seed}")) for seed in SEEDS]


@pytest.mark.parametrize("stop_after", [10, *(pytest.param(step, marks=pytest.mark.slow) for step in (None, 3, 18))])
@pytest.mark.slow
def test_a_member_that_stops_early_and_its_best_are_those_of_its_own_run(mesh, step, alone, tmp_path, stop_after):
    """Also if the population is interrupted: before any has stopped, after one has, after two."""
    choices = {"plan": STOPPING, "evaluate": scored()}
    with Checkpoints(tmp_path) as checkpoints:
        states, progress = new_states(mesh), None
        if stop_after is not None:
            with pytest.raises(Interrupted):
                run(mesh, step, states=states, checkpoints=checkpoints, stop=StopAt(stop_after), **choices)
            checkpoints.close()
            states, progress = restore(checkpoints, "last", new_states(mesh))
        states, progress = run(mesh, step, states=states, progress=progress, checkpoints=checkpoints, **choices)
        checkpoints.close()
        best = restore(checkpoints, "best", states)[0]
        again = restore(checkpoints, "last", states)[0]
    assert [one.finished_at for one in progress.members] == [8, None, 16]
    assert (progress.finished, progress.running) == ("steps", [1])
    for index, (state, one, its_best) in enumerate(alone):
        assert progress.members[index].watch == one.members[0].watch
        assert progress.members[index].best_step == one.members[0].best_step
        for found, expected in ((states, state), (again, state), (best, its_best)):
            chex.assert_trees_all_close(member(found, index).params, expected.params, rtol=1e-5, atol=1e-6)


def test_it_ends_when_all_have_stopped(mesh, step):
    falling = [Evaluation(0.5, 100, {"accuracy": 0.5})] * 3
    states, progress = run(mesh, step, plan=STOPPING, evaluate=lambda _: falling)
    assert (progress.finished, int(states.step[0])) == ("early stopping", 8)
    _, same = run(mesh, step, plan=STOPPING, states=states, progress=progress)
    assert same == progress


def test_rejected_updates_are_tolerated_so_many_in_a_row(mesh, step):
    """One is only reported, and leaves the state as it was; two in a row are a divergence where one is tolerated."""
    tolerant = dataclasses.replace(PLAN, on_reject=Reject("record", tolerate=1))
    _, progress = run(mesh, step, poison=(1, 5), plan=tolerant)
    assert (progress.diverged, progress.members[1].rejected) == ((None,) * 3, 0)
    seen = []

    class Steps:
        def on_step(self, row):
            seen.extend([(row["step"], row["rejected"])] if "rejected" in row else [])

    state = jax.device_put(member(new_states(mesh), 1), replicated(mesh))
    feed = SingleSteps(
        step_alone(mesh),
        lambda start, stop: (batch_of(1, t, (1, t) if t in (2, 5, 6) else None) for t in range(start, stop)),
    )
    with pytest.raises(RunError, match=r"diverged at step 7.*1 rejected updates in a row are tolerated"):
        train(state, plan=Plan(10, 4, on_reject=Reject(tolerate=1)), feed=feed, observers=[Steps()])
    assert seen == [(3, 1), (6, 1)]


numbers = st.floats(0, 1e9)


@given(
    st.lists(st.tuples(numbers, numbers, st.none() | st.integers(1)), min_size=1),
    numbers,
    st.sampled_from([None, "steps", "all diverged"]),
)
def test_progress_of_a_population_written_before_is_read(members, seconds, finished):
    old = {
        "epoch_sums": [{"loss": loss, "correct": 3.0, "examples": examples} for loss, examples, _ in members],
        "diverged": [at for *_, at in members],
        "seconds": seconds,
        "finished": finished,
    }
    progress = Progress.from_json(json.loads(json.dumps(old)))
    assert (progress.seconds, progress.finished) == (seconds, finished)
    assert progress.diverged == tuple(old["diverged"])
    assert [one.epoch_sums for one in progress.members] == [
        EpochSums(loss, examples, {"correct": 3.0}) for loss, examples, _ in members
    ]
    assert Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress


def test_progress_of_a_run_written_before_is_read():
    watch = {"evaluations": 2, "best": 0.5, "best_at": 0, "wait": 1, "should_stop": False}
    old = {
        "epoch_sums": {"loss": 1.5, "correct": 2.0, "examples": 3.0},
        "watch": watch,
        "seconds": 1.25,
        "timed_examples": 10.0,
        "finished": None,
    }
    member = MemberProgress(EpochSums(1.5, 3.0, {"correct": 2.0}), EarlyStoppingState(**watch))
    assert Progress.from_json(old) == Progress((member,), 1.25, 10.0)
    assert Progress.from_json({**old, "skipped": 4}).members[0].skipped == 4
