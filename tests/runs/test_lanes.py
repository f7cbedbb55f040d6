"""Lane k is the run with its values and its seed, wherever the other lanes stand, by one program for all values."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import chex
import jax
import numpy as np
import pytest

from resnet_jax.data.config import DataConfig
from resnet_jax.errors import UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs import lanes as module
from resnet_jax.runs.build import build_parts, training_feed
from resnet_jax.runs.carried import CARRIED, carried_options, carries, values_of, why_not, with_options
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import load_images
from resnet_jax.runs.lanes import build_lanes
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.training.compile import compile_train_step
from resnet_jax.training.config import TrainConfig
from resnet_jax.training.ema import Averaging
from resnet_jax.training.members import member_at
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.optimizers import OptimConfig
from resnet_jax.training.placement import as_placement
from resnet_jax.training.schedules import ScheduleConfig

#: Updates that each lane has done when all are compared, and those they then make together.
STARTS, COUNT = (4, 1), 2

SGD = OptimConfig("sgd", momentum=0.9, nesterov=True, schedule=ScheduleConfig("cosine", warmup="3 steps"))
CROP = DataConfig(augment=("random_crop(1)", "random_erasing", "mixup(0.2)"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("lanes") / "images.npz"
    rng = np.random.default_rng(0)
    label = np.arange(90) % 3
    image = rng.integers(0, 120, (90, 8, 8, 3)) + 60 * label[:, None, None, None]
    np.savez(path, x=image.astype(np.uint8), y=label)
    return RunConfig(
        model=ModelSpec("resnet20_cifar", stage_sizes=(2,), widths=(8,)),
        data=DataConfig(f"npz:{path}"),
        optim=SGD,
        train=TrainConfig("10 steps", batch_size=16),
    )


def changed(base, **sections):
    data = dataclasses.replace(sections.pop("data", CROP), source=base.data.source)
    return dataclasses.replace(base, data=data, **sections)


def alone(config, images, count):
    """Return where the run of a configuration is after some updates, and the losses on its way."""
    mesh = make_mesh()
    parts, feed = build_parts(config, images, mesh), training_feed(config, images)
    step, state, losses = compile_train_step(parts.step, mesh), parts.new_state(), []
    for update in range(count):
        state, metrics = step(state, as_placement(mesh).shard(feed.batch(update)))
        losses.append(float(metrics["loss"]))
    return parts, state, losses


def together(lanes, values, seeds):
    """Return lanes at ``STARTS``: the later one begins where another run was, restarted in the middle."""
    states, first = lanes.new_states((seeds[0], 77)), STARTS[0] - STARTS[1]
    states, _ = lanes.advance(states, values, (seeds[0], 77), (0, 0), first)
    states = lanes.restart(states, 1, seeds[1])
    return lanes.advance(states, values, seeds, (first, 0), STARTS[1])[0]


def require_equal(base, options, seeds=(3, 4), rtol=1e-5, atol=1e-6, *, evaluated=True):
    """Two lanes that differ in all ``options`` at once, two numbers each, and the runs of their configurations."""
    images, names = load_images(base), tuple(options)
    configs = [
        with_options(base, {"seed": seed, **{name: pair[k] for name, pair in options.items()}})
        for k, seed in enumerate(seeds)
    ]
    lanes, values = build_lanes(base, images, make_mesh(), names), values_of(configs, names)
    assert all(values[name].tolist() == list(options[name]) for name in names)
    states, metrics = lanes.advance(together(lanes, values, seeds), values, seeds, STARTS, COUNT)
    validation: Any = images.splits.val
    found = lanes.evaluate(states, validation, values) if evaluated else []
    for k, config in enumerate(configs):
        parts, state, losses = alone(config, images, STARTS[k] + COUNT)
        one = member_at(states, k)
        np.testing.assert_allclose(metrics["loss"][:, k], losses[-COUNT:], rtol=rtol)
        np.testing.assert_array_equal(jax.random.key_data(one.rng), jax.random.key_data(state.rng))
        assert int(one.step) == int(state.step) == STARTS[k] + COUNT
        chex.assert_trees_all_close(
            (one.params, one.batch_stats, one.ema), (state.params, state.batch_stats, state.ema), rtol=rtol, atol=atol
        )
        if evaluated:
            expected = parts.evaluate(state.eval_variables, validation)
            pair = (found[k].loss, found[k].accuracy), (expected.loss, expected.accuracy)
            np.testing.assert_allclose(*pair, rtol=max(1e-4, rtol / 10))
    return lanes, values, states


@pytest.fixture
def one_trace(monkeypatch):
    """A step of lanes that is traced twice is an error."""
    compiled = module.compile_multi_step
    chex.clear_trace_counter()  # which knows functions by their code

    def counted(step, *args, **kwargs):
        return compiled(chex.assert_max_traces(lambda carry, batch: step(carry, batch), n=1), *args, **kwargs)

    monkeypatch.setattr(module, "compile_multi_step", counted)


@pytest.mark.slow
def test_lanes_are_the_runs_of_their_values_by_one_program(base, one_trace):
    """float32, within rounding of constants that a run computes in float64."""
    small = changed(base, model=ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,)), data=DataConfig())
    options = {
        "optim.learning_rate": (0.1, 0.02),
        "optim.weight_decay": (0.0, 0.01),
        "optim.momentum": (0.9, 0.5),
        "task.label_smoothing": (0.0, 0.2),
    }
    lanes, values, states = require_equal(small, options, evaluated=False)
    halved = {name: each / 2 for name, each in values.items()}  # other values, seeds and steps: no other program
    states, metrics = lanes.advance(lanes.restart(states, 0, 8), halved, (8, 9), (0, 3), 3)
    assert metrics["loss"].shape == metrics["rejected"].shape == (3, 2)
    assert metrics["rejected"].sum() == 0
    states, metrics = lanes.advance(states, halved, (8, 9), (3, 6), module.UPDATES_PER_CALL + 1)  # two calls
    assert metrics["loss"].shape == (module.UPDATES_PER_CALL + 1, 2)
    with pytest.raises(UsageError, match=r"got values of optim.momentum for lanes that differ in"):
        lanes.advance(states, {"optim.momentum": np.ones(2)}, (8, 9), (3, 6), 1)
    with pytest.raises(UsageError, match=r"optim.momentum must be a number for each of 2 lanes, got array\(\[1., 1."):
        lanes.advance(states, {**values, "optim.momentum": np.ones(3)}, (8, 9), (3, 6), 1)
    with pytest.raises(UsageError, match=r"no lane 2: the population has lanes 0..1"):
        lanes.restart(states, 2, 0)


ADAMW = OptimConfig("adamw", 0.01, schedule=ScheduleConfig("polynomial", warmup="3 steps"))
RMSPROP = OptimConfig("rmsprop", 0.001, l1=1e-3, l1_step="proximal", schedule=ScheduleConfig("cosine", end_value=0.1))
LARS = OptimConfig("lars", 1.0, schedule=ScheduleConfig("onecycle"))
LAMB = OptimConfig("lamb", 0.01)
RATES = {"optim.learning_rate": (0.01, 0.003)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sections", "options"),
    [
        (
            {"optim": ADAMW, "train": TrainConfig("10 steps", batch_size=16, ema=Averaging(0.9, warmup="none"))},
            {
                **RATES,
                "optim.b1": (0.9, 0.5),
                "optim.b2": (0.999, 0.9),
                "optim.eps": (1e-8, 1e-3),
                "optim.weight_decay": (0.1, 0.0),
                "optim.schedule.end_value": (0.5, 0.0),
                "optim.schedule.power": (1.0, 2.0),
                "optim.schedule.warmup_start_factor": (0.0, 0.5),
                "train.ema.decay": (0.5, 0.9),
                "model.head_dropout": (0.5, 0.1),
                "data.augment.mixup.probability": (0.0, 0.8),
            },
        ),
        (
            {"optim": RMSPROP},
            {
                "optim.learning_rate": (0.001, 0.003),
                "optim.decay": (0.99, 0.5),
                "optim.momentum": (0.0, 0.8),
                "optim.l1": (1e-3, 1e-1),
                "optim.schedule.end_value": (0.5, 0.0),
            },
        ),
        (
            {"optim": LARS},
            {
                "optim.learning_rate": (1.0, 0.3),
                "optim.trust_coefficient": (0.001, 0.01),
                "optim.momentum": (0.9, 0.0),
                "optim.weight_decay": (1e-4, 0.1),
                "optim.schedule.div_factor": (25.0, 2.0),
                "optim.schedule.final_div_factor": (1e4, 10.0),
            },
        ),
        (
            {},
            {
                **RATES,
                "optim.l1": (1e-4, 0.0),
                "optim.clip_norm": (math.inf, 0.5),
                "optim.agc": (0.05, math.inf),
                "task.label_smoothing": (0.0, 0.2),
                "model.dropout": (0.2, 0.0),
                "model.drop_path": (0.0, 0.3),
                "data.augment.mixup.alpha": (1.0, 0.1),
                "data.augment.random_erasing.probability": (0.9, 0.0),
            },
        ),
        ({"optim": LAMB}, {**RATES, "optim.b2": (0.999, 0.9), "optim.weight_decay": (0.0, 0.1)}),
        (
            {"task": TaskConfig(loss="bce"), "data": DataConfig(augment=("mix(0.2, 1.0)",))},
            {
                "task.label_smoothing": (0.1, 0.0),
                "data.augment.mix.mixup": (0.2, 1.0),
                "data.augment.mix.cutmix": (1.0, 0.3),
                "data.augment.mix.probability": (1.0, 0.5),
            },
        ),
        (
            {"model": ModelSpec("resnet20_cifar", stage_sizes=(3,), widths=(8,), execution="scan", drop_path=0.1)},
            {"model.drop_path": (0.0, 0.5), "model.dropout": (0.3, 0.0)},
        ),
        (
            {"model": ModelSpec("resnet20_cifar", stage_sizes=(2,), widths=(8,), dtype="bfloat16")},
            {"model.dropout": (0.3, 0.0), "task.label_smoothing": (0.0, 0.2), "optim.learning_rate": (0.1, 0.02)},
        ),
    ],
)
def test_lanes_of_every_optimizer_and_task_are_the_runs(base, sections, options, one_trace):
    """A lane has 1 - b2 of float32, 5e-5 off: 1e-3. A bfloat16 network is convolved in another order: 0.05."""
    loose = sections.get("model") is not None and sections["model"].changes.get("dtype") == "bfloat16"
    require_equal(changed(base, **sections), options, rtol=0.05 if loose else 1e-3, atol=5e-3 if loose else 1e-4)


@pytest.mark.slow
def test_lanes_whose_images_are_read_as_they_are_needed(base, monkeypatch):
    """The host makes each lane's batches from its own update on."""
    monkeypatch.setattr(module, "fits_resident", lambda *_: False)
    require_equal(changed(base), {"optim.learning_rate": (0.1, 0.02)})


def test_what_lanes_cannot_differ_in_is_refused_with_what_they_can(base):
    images, mesh = load_images(base), make_mesh()
    with pytest.raises(UsageError, match=r"lanes cannot differ in model.norm: it decides what is compiled.*optim.mom"):
        build_lanes(base, images, mesh, ["model.norm"])
    with pytest.raises(UsageError, match=r"lanes cannot differ in optim.b1: sgd does not use it"):
        build_lanes(base, images, mesh, ["optim.b1"])
    with pytest.raises(UsageError, match="init_from: lanes start from scratch"):
        build_lanes(dataclasses.replace(base, init_from="somewhere"), images, mesh, ["optim.momentum"])
    spiky = dataclasses.replace(base.train, spikes=dataclasses.replace(base.train.spikes, factor=3.0))
    with pytest.raises(UsageError, match=r"train.spikes: no lane goes back"):
        build_lanes(dataclasses.replace(base, train=spiky), images, mesh, ["optim.momentum"])
    assert build_lanes(base, images, mesh, ["seed", "optim.momentum", "seed"]).names == ("optim.momentum",)


def test_what_an_array_can_carry_depends_on_the_configuration(base):
    adam = changed(base, optim=ADAMW)
    assert carries(adam, "optim.b1")
    assert not carries(adam, "optim.momentum")
    assert not carries(base, "train.ema.decay")
    assert not carries(changed(base, task=TaskConfig(loss="mse")), "task.label_smoothing")
    assert not carries(changed(base, task=TaskConfig(loss="mse")), "task.gce_q")
    assert carries(changed(base, task=TaskConfig(loss="generalized_cross_entropy")), "task.gce_q")
    assert not carries(changed(base, optim=dataclasses.replace(LAMB, convention="timm")), "optim.weight_decay")
    assert carries(changed(base), "data.augment.random_erasing.low")
    assert why_not(changed(base), "data.augment.cutmix.alpha") == (
        "data.augment has cutmix 0 times, not once: random_crop(1), random_erasing, mixup(0.2)"
    )
    host = changed(base, data=DataConfig(augment=("colour_jitter(0.4, where='host')",)))
    assert why_not(host, "data.augment.colour_jitter.brightness") == "colour_jitter is done on the host"
    jitter = changed(base, data=DataConfig(augment=("colour_jitter(0.4)",)))
    assert carried_options(jitter)[-2:] == [
        "data.augment.colour_jitter.brightness",
        "data.augment.colour_jitter.probability",
    ]
    assert why_not(changed(base), "data.augment.random_crop.pad") == "arrays carry no argument of random_crop"
    assert set(carried_options(base)) <= set(CARRIED)


def test_options_are_set_and_read_by_their_names(base):
    config = with_options(
        changed(base), {"data.augment.mixup.alpha": 1, "optim.clip_norm": math.inf, "optim.agc": 0.01, "seed": 5}
    )
    assert config.data.augment == ("random_crop(1)", "random_erasing", "mixup(1.0)")
    assert (config.optim.clip_norm, config.optim.agc, config.seed) == (None, 0.01, 5)
    names = ["optim.clip_norm", "data.augment.mixup.probability", "optim.schedule.warmup_start_factor", "model.dropout"]
    assert {name: each.tolist() for name, each in values_of([config], names).items()} == {
        "optim.clip_norm": [math.inf],
        "data.augment.mixup.probability": [1.0],
        "optim.schedule.warmup_start_factor": [0.0],
        "model.dropout": [0.0],
    }
    with pytest.raises(UsageError, match="learning_rate"):
        with_options(base, {"optim.learning_rate": -1.0})
    with pytest.raises(UsageError, match="unknown argument of mixup 'alpa'; did you mean 'alpha'"):
        with_options(changed(base), {"data.augment.mixup.alpa": 1.0})
    lanes = build_lanes(changed(base), load_images(base), make_mesh(), ["data.augment.mixup.alpha"])
    with pytest.raises(UsageError, match="alpha must be positive for every member, got 0"):
        lanes.evaluate(lanes.new_states((0,)), load_images(base).splits.val, {"data.augment.mixup.alpha": np.zeros(1)})
