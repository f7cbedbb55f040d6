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

from resnet_jax.errors import RunError, UsageError
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.compile import compile_train_step
from resnet_jax.training.early_stopping import EarlyStopping
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.interrupt import StopRequest
from resnet_jax.training.loop import Interrupted, Plan, train
from resnet_jax.training.loss_scale import LossScaling
from resnet_jax.training.mesh import make_mesh, replicated
from resnet_jax.training.population import compile_population_step, create_population, member, stack_batches
from resnet_jax.training.population_loop import PopulationProgress, restore_population, train_population
from resnet_jax.training.progress import EpochSums
from resnet_jax.training.step import make_train_step

SEEDS, SHAPE, PLAN = (0, 1, 2), (4,), Plan(total_steps=10, steps_per_epoch=4)
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
    return Evaluation(value, int(value), 100, np.zeros((3, 3), np.int64))


class Recorder:
    """An observer of either loop; of a population it keeps the member that it is told to."""

    def __init__(self, index=None):
        self.index, self.epochs, self.divergences = index, [], []

    def on_step(self, row):
        pass

    def on_epoch(self, row):
        if self.index is None:
            self.epochs.append({key: value for key, value in row.items() if key != "images_per_second"})
        elif self.index in row:
            self.epochs.append(row[self.index])

    def on_divergence(self, index, row):
        if index == self.index:
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


def run(mesh, step, *, poison=None, states=None, plan=PLAN, **options):
    def batches(start, stop):
        return (stack_batches([batch_of(seed, t, poison) for seed in SEEDS]) for t in range(start, stop))

    def evaluate(states):
        return [evaluation_of(member(states, index).params) for index in range(3)]

    states = new_states(mesh) if states is None else states
    return train_population(
        states, plan=plan, step=step, batches=batches, mesh=mesh, evaluate=evaluate, **options
    )  # fmt: skip


def run_alone(mesh, seed, *, poison=None, recorder=None, plan=PLAN):
    state = jax.device_put(member(new_states(mesh), SEEDS.index(seed)), replicated(mesh))
    return train(
        state,
        plan=plan,
        train_step=step_alone(mesh),
        batches=lambda start, stop: (batch_of(seed, t, poison) for t in range(start, stop)),
        evaluate=lambda state: evaluation_of(state.params),
        observers=(recorder,) if recorder else (),
    )


def near(rows, expected):
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("eval_every", [1, 2])
def test_every_member_reports_what_its_own_run_reports(mesh, step, eval_every):
    plan, recorders = dataclasses.replace(PLAN, eval_every=eval_every), [Recorder(index) for index in range(3)]
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
    states, progress = run(mesh, step, states=states, plan=Plan(1000, 500))
    assert (progress.finished, progress.diverged) == ("all diverged", (1, 1, 1))
    assert int(states.step[0]) < 10
    again, same = run(mesh, step, states=states, plan=Plan(1000, 500), progress=progress)
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
        states, progress = restore_population(checkpoints, new_states(mesh), mesh)
        assert states.step.tolist() == [stop_after] * 3
        states, progress = run(
            mesh, step, poison=(1, 4), observers=[parts], checkpoints=checkpoints, states=states, progress=progress
        )
    chex.assert_trees_all_equal(jax.device_get(states.params), jax.device_get(expected.params))
    assert (progress.diverged, progress.finished) == (ending.diverged, ending.finished) == ((None, 5, None), "steps")
    assert parts.epochs == whole.epochs


def test_early_stopping_is_refused(mesh, step):
    with pytest.raises(UsageError, match="lockstep"):
        run(mesh, step, plan=Plan(10, 5, early_stopping=EarlyStopping(patience=1)))


numbers = st.floats(0, 1e9)


@given(
    st.lists(st.tuples(st.builds(EpochSums, numbers, numbers, numbers), st.none() | st.integers(1)), min_size=1),
    numbers,
    st.sampled_from([None, "steps", "all diverged"]),
)
def test_progress_survives_json(members, seconds, finished):
    sums, diverged = zip(*members, strict=True)
    progress = PopulationProgress(sums, diverged, seconds, finished)
    assert PopulationProgress.from_json(json.loads(json.dumps(progress.to_json()))) == progress
