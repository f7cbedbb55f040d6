"""The gradient at every block, measured inside the step: right however it is cut, and without effect on the rest."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from resnet_jax.depth import profile
from resnet_jax.errors import RunError, UsageError
from resnet_jax.instrument.hooks import BlockNames
from resnet_jax.instrument.probing import chart_blocks
from resnet_jax.models import ResNet, ResNetConfig
from resnet_jax.models.layout import stack
from resnet_jax.ops import native
from resnet_jax.report.depth_file import DepthFile, draw_history, read_depth
from resnet_jax.runs.fit import fit
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.training.compile import compile_train_step
from resnet_jax.training.dispatch import compile_multi_step
from resnet_jax.training.loss_scale import LossScaling, init_loss_scale
from resnet_jax.training.mesh import DATA_AXIS, make_mesh, replicated, shard_batch
from resnet_jax.training.pmap import pmap_train_step, replicate, split_batch
from resnet_jax.training.schedules import ScheduleConfig
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import make_train_step
from tests.tools import few_devices, random_variables

SHAPE, BATCH = (8, 8, 3), 16
TX = optax.sgd(0.05, momentum=0.9)


def network(*, stages=(2,), **choices) -> ResNet:
    choices = {"stem": "cifar", "shortcut": "B", "num_classes": 5, **choices}
    return ResNet(ResNetConfig(stages, (4, 8)[: len(stages)], **choices))


def batch():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(BATCH, *SHAPE)).astype(np.float32)
    return {"image": image, "label": rng.integers(0, 5, BATCH).astype(np.int32)}


def state_of(model: ResNet, *, scaling: LossScaling | None = None) -> TrainState:
    plain = ResNet(dataclasses.replace(model.config, execution="unroll", axis_name=None))
    variables = stack(random_variables(plain, SHAPE), model.config.execution)
    variables = jax.tree.map(jnp.asarray, variables)
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=variables["params"], batch_stats=variables.get("batch_stats", {}),
        opt_state=TX.init(variables["params"]), rng=jax.random.key(0),
        loss_scale=None if scaling is None else init_loss_scale(scaling),
    )  # fmt: skip


@functools.cache
def one_step(model: ResNet, *, probe: bool = True, devices: int = 1, scaling: LossScaling | None = None, **options):
    mesh = make_mesh(jax.devices()[:devices])
    step = make_train_step(
        model, TX, probe=BlockNames() if probe else None, norm_momentum=model.config.norm_momentum,
        loss_scaling=scaling, **options,
    )  # fmt: skip
    state = jax.device_put(state_of(model, scaling=scaling), replicated(mesh))
    return jax.device_get(compile_train_step(step, mesh)(state, shard_batch(batch(), mesh)))


@functools.cache
def expected(model: ResNet) -> np.ndarray:
    """The norms of a whole batch, by another route."""
    state = state_of(model)
    return profile(model, state.eval_variables, *batch().values()).grad_norm


CHOICES = {
    "batch norm": {},
    "scanned": {"execution": "scan", "stages": (1, 3)},
    "rematerialized": {"execution": "scan", "remat": "block", "stages": (3,)},
    "pre": {"order": "pre", "execution": "scan", "stages": (1, 3)},
    "nf": {"norm": "none", "residual": "nf"},
}
QUICK = (("batch norm", 2), ("rematerialized", 1))
"""In the quick tests: every part of these is in one of them."""


@pytest.mark.parametrize(
    ("kind", "devices"),
    [
        pytest.param(kind, devices, marks=[] if (kind, devices) in QUICK else pytest.mark.slow)
        for kind in CHOICES
        for devices in (1, 2)
    ],
)
def test_norms_are_those_of_the_whole_batch(kind, devices):
    model = network(**CHOICES[kind])
    _, metrics = one_step(model, devices=devices)
    assert metrics["block_grad_norm"].shape == (sum(model.config.stage_sizes),)
    np.testing.assert_allclose(metrics["block_grad_norm"], expected(model), rtol=2e-5)


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "rematerialized" else pytest.param(kind, marks=pytest.mark.slow) for kind in CHOICES],
)
def test_nothing_else_changes_beyond_rounding(kind):
    model = network(**CHOICES[kind])
    (state, metrics), (plain, without) = (one_step(model, probe=probe) for probe in (True, False))
    assert set(metrics) - set(without) == {"block_grad_norm"}
    same = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)  # other fusions: an ulp
    jax.tree.map(same, dataclasses.asdict(_plain(state)), dataclasses.asdict(_plain(plain)))
    for name, value in without.items():
        same(metrics[name], value)


@pytest.mark.skipif(not native.available(), reason="no C++ compiler")
def test_plain_and_probed_steps_add_the_gradients_of_each_block_in_the_same_pass_to_the_same_bit():
    mesh, model = make_mesh(jax.devices()[:1]), network(stages=(2, 1))
    done = []
    for probe in (None, BlockNames()):
        step: Any = compile_train_step(make_train_step(model, TX, probe=probe), mesh)
        state, data = jax.device_put(state_of(model), replicated(mesh)), shard_batch(batch(), mesh)
        program = step.lower(state, data).compile()
        assert program.as_text().count('custom_call_target="resnet_jax_probe_join') == model.config.num_blocks
        done.append(jax.device_get(program(state, data)[0].params))
    jax.tree.map(np.testing.assert_array_equal, *done)


def _plain(state: TrainState) -> TrainState:
    return state.replace(rng=jax.random.key_data(state.rng))


@pytest.mark.parametrize(
    ("devices", "scaling"), [pytest.param(1, None, marks=pytest.mark.slow), (2, LossScaling(1024.0, 100))]
)
def test_micro_batches_devices_and_a_loss_scale_are_taken_out(devices, scaling):
    model = network(norm="none", residual="nf")
    _, metrics = one_step(model, accumulate=2, devices=devices, scaling=scaling)
    np.testing.assert_allclose(metrics["block_grad_norm"], expected(model), rtol=2e-5)


@pytest.mark.slow
def test_micro_batches_with_batch_norm_are_their_own():
    """Each is normalized by itself: the squares of its gradients, of a mean over the whole batch, add up."""
    model, data = network(stages=(1,)), batch()
    state = state_of(model)
    parts = [
        profile(model, state.eval_variables, data["image"][i::2], data["label"][i::2]).grad_norm / 2 for i in range(2)
    ]
    _, metrics = one_step(model, accumulate=2)
    np.testing.assert_allclose(metrics["block_grad_norm"], np.hypot(*parts), rtol=2e-5)


@pytest.mark.slow
def test_pmap_gives_the_same():
    model, plain = network(stages=(1,), axis_name=DATA_AXIS), network(stages=(1,))
    step = pmap_train_step(make_train_step(model, TX, axis_name=DATA_AXIS, probe=BlockNames()))
    _, metrics = step(replicate(state_of(plain)), split_batch(batch()))
    rows = np.asarray(metrics["block_grad_norm"])
    np.testing.assert_array_equal(rows, np.broadcast_to(rows[:1], rows.shape))
    np.testing.assert_allclose(rows[0], expected(plain), rtol=2e-5)


def test_several_updates_in_a_call_have_a_row_each():
    model, mesh = network(stages=(1,)), make_mesh(jax.devices()[:1])

    def preprocess(_key, rows):
        return rows["image"].astype(jnp.float32) / 64

    step = make_train_step(model, TX, probe=BlockNames(), preprocess=preprocess)
    pixels = (255 * np.random.default_rng(0).random((BATCH, *SHAPE))).astype(np.uint8)
    data = {"image": pixels, "label": batch()["label"]}
    index = np.arange(BATCH, dtype=np.int32)[None].repeat(3, 0)
    chunk = {"index": index, "epoch": 0 * index, "count": np.int32(2)}
    state = jax.device_put(state_of(model), replicated(mesh))
    _, metrics = compile_multi_step(step, mesh)(state, jax.device_put(data, replicated(mesh)), chunk)
    rows = np.asarray(metrics["block_grad_norm"])
    assert rows.shape == (3, 1)
    assert (rows[:2] > 0).all()
    assert (rows[2] == 0).all()
    assert not np.allclose(rows[0], rows[1])


def test_chart_names_the_blocks_in_any_execution():
    for execution in ("unroll", "scan"):
        chart = chart_blocks(network(execution=execution, stages=(1, 3)), SHAPE, BATCH, BlockNames())
        assert chart.names == ("stage1/block0", "stage2/block0", "stage2/block1", "stage2/block2")
        assert chart.stages.tolist() == [0, 1, 1, 1]


# ---- in a run ---------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def one_device():
    """Train on one device: what several do is above."""
    with few_devices(1):
        yield


def digits(**train):
    config = load_recipe("digits")
    model = config.model.replace(stage_sizes=(2,), widths=(4,), stem_width=4)
    shorter = {"length": "9 steps", "batch_size": 32, "log_every": "4 steps", **train}
    constant = dataclasses.replace(config.optim, schedule=ScheduleConfig("constant"))
    train = dataclasses.replace(config.train, **shorter)
    return dataclasses.replace(config, model=model, optim=constant, train=train)


def test_ghost_batches_are_charted_at_the_size_of_a_micro_batch():
    """Groups of 8 divide no other number: what is charted is what a micro-batch has."""
    model = network(norm_scope="ghost", ghost_size=8)
    step = make_train_step(model, TX, probe=BlockNames(), accumulate=2, norm_momentum=0.9)
    _, metrics = jax.eval_shape(step, state_of(network()), batch())
    assert metrics["block_grad_norm"].shape == (2,)
    assert len(chart_blocks(model, SHAPE, BATCH // 2, BlockNames()).names) == 2


@pytest.mark.slow
def test_a_run_leaves_its_gradients_through_depth(tmp_path):
    fit(digits(depth_every="4 steps", steps_per_dispatch=4), tmp_path)
    history = read_depth(tmp_path / "depth.jsonl")
    assert history.steps.tolist() == [1, 5, 9]
    assert history.grad_norm.shape == (3, 2)
    assert history.names == ("stage1/block0", "stage1/block1")
    assert (history.grad_norm > 0).all()
    assert (tmp_path / "depth.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize("steps_per_dispatch", [1, 4])
def test_a_probed_run_ends_at_the_same_parameters_and_a_finished_one_says_that_it_kept_none(
    tmp_path, steps_per_dispatch
):
    together = {"steps_per_dispatch": steps_per_dispatch}
    summary = fit(digits(depth_every="4 steps", **together), tmp_path / "probed").summary
    assert read_depth(tmp_path / "probed" / "depth.jsonl").steps.tolist() == [1, 5, 9]
    plain = fit(digits(**together), tmp_path / "plain").summary
    assert summary.params_digest == plain.params_digest
    said = io.StringIO()
    fit(digits(depth_every="4 steps", **together), tmp_path / "plain", console=Console(file=said, width=200))
    assert "It kept no gradients through depth: to train again with them, give another run_dir." in said.getvalue()
    assert not (tmp_path / "plain" / "depth.jsonl").exists()


@pytest.mark.slow
def test_ghost_batches_of_any_size(tmp_path):
    config = digits(depth_every="4 steps", accumulate=2)
    ghost = config.model.replace(norm_scope="ghost", ghost_size=16)
    fit(dataclasses.replace(config, model=ghost), tmp_path / "run")
    assert read_depth(tmp_path / "run" / "depth.jsonl").steps.tolist() == [1, 5, 9]


@pytest.mark.slow
def test_a_run_that_diverges_in_its_first_step_says_so(tmp_path):
    config = digits(depth_every="4 steps")
    config = dataclasses.replace(
        config, model=config.model.replace(norm="none", stage_sizes=(1, 300), widths=(4, 8), order="pre")
    )
    with pytest.raises(RunError, match="training diverged at step 1: loss"):
        fit(config, tmp_path / "run")
    history = read_depth(tmp_path / "run" / "depth.jsonl")
    assert (len(history.steps), len(history.names), history.grad_norm.shape) == (0, 301, (0, 301))
    assert not (tmp_path / "run" / "depth.png").exists()


def test_a_resumed_run_leaves_no_row_twice(tmp_path):
    path, names = tmp_path / "depth.jsonl", ("a", "b")
    first = DepthFile(path, names, np.arange(2), start_step=0, every=2)
    for step in range(1, 8):
        first.on_blocks(step, np.asarray([step, np.inf]))
    first.close()
    again = DepthFile(path, names, np.arange(2), start_step=4, every=2)
    for step in range(5, 8):
        again.on_blocks(step, np.asarray([10.0 * step, 1.23456789]))
    again.close()
    history = read_depth(path)
    assert history.steps.tolist() == [1, 3, 5, 7]
    np.testing.assert_array_equal(history.grad_norm[:, 0], [1, 3, 50, 70])
    np.testing.assert_array_equal(history.grad_norm[:, 1], [np.nan, np.nan, 1.23457, 1.23457])
    for line in path.read_text().splitlines():
        json.loads(line)
    draw_history(history, tmp_path / "depth.png", title="with gaps")
    assert (tmp_path / "depth.png").exists()


def test_a_file_without_rows_says_how_to_get_some(tmp_path):
    with pytest.raises(UsageError, match=r"depth.jsonl has no gradients through depth.*train.depth_every"):
        read_depth(tmp_path / "depth.jsonl")
