"""The step mapped over devices: the numbers of one device, few waits, and whatever cannot be mapped as before."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.instrument.hooks import BlockNames
from resnet_jax.models import ResNet, ResNetConfig, register_norm
from resnet_jax.models.norms import NORMS, batch_norm
from resnet_jax.tasks import Classification, MultiLabel, get_loss
from resnet_jax.training.compile import (
    MAPPED_OPTIONS,
    STEP_OPTIONS,
    compile_eval_step,
    compile_train_step,
    create_state,
    step_options,
)
from resnet_jax.training.mapped import uncut, unmapped
from resnet_jax.training.pieces import PIECES
from resnet_jax.training.placement import Placement, make_mesh, shard_batch
from resnet_jax.training.state import init_state
from resnet_jax.training.step import make_eval_step, make_train_step
from tests.tools import TinyNet

TX = optax.sgd(0.05, momentum=0.9)
SHAPE = (8, 8, 3)


def network(**choices) -> ResNet:
    choices = {"stem": "cifar", "num_classes": 5, **choices}
    return ResNet(ResNetConfig((1,), (4,), **choices))


def batch(size=16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, size).astype(np.int32)
    image = rng.normal(size=(size, *SHAPE)) + label[:, None, None, None] / 2
    return {"image": image.astype(np.float32), "label": label, "mask": np.ones(size, bool)}


def two_steps(devices, *, mapped=True, model=None, **options):
    mesh, model = make_mesh(jax.devices()[:devices]), model or network()
    if model.config.norm_scope in ("device", "device_group"):  # what one device does with that scope is another thing
        model = model.clone(config=dataclasses.replace(model.config, norm_devices=4))
    step = compile_train_step(make_train_step(model, TX, **options), mesh, mapped=mapped)
    state = create_state(model, TX, jax.random.key(0), SHAPE, mesh=mesh)
    state, _ = step(state, shard_batch(batch(), mesh))
    state, metrics = step(state, shard_batch(batch(), mesh))
    return jax.device_get((state.params, state.batch_stats, state.opt_state, metrics))


CASES = {
    "plain": {},
    "dropped": {"model": network(dropout=0.3, head_dropout=0.2, drop_path=0.4)},
    "accumulated": {"accumulate": 2, "norm_momentum": 0.9, "model": network(head_dropout=0.5)},
    "probed": {"probe": BlockNames()},
    "ghost": {"model": network(norm_scope="ghost", ghost_size=2, norm_running_variance="unbiased")},
    "device": {"model": network(norm_scope="device")},
    "group": {"model": network(norm_scope="device_group", norm_group_devices=2, norm_running_variance="unbiased")},
    "accumulated ghosts": {
        "accumulate": 2, "norm_momentum": 0.9,
        "model": network(norm_scope="ghost", ghost_size=2, norm_running_variance="unbiased"),
    },
    "unbiased": {"model": network(norm_running_variance="unbiased")},
    "frozen": {"model": network(norm_scope="frozen")},
    "layer": {"model": network(norm="layer")},
}  # fmt: skip
QUICK = {"dropped", "group"}


@pytest.mark.parametrize(
    "case", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
@pytest.mark.slow
def test_the_numbers_are_those_of_the_compilers_cut(case):
    """What is dropped, running averages of every scope, probes, momentum: everything a step reads and writes."""
    options = CASES[case]
    model = options.get("model", network())
    devices = 4
    expected = two_steps(
        devices if model.config.norm_scope in ("device", "device_group") else 1, mapped=False, **options
    )
    chex.assert_trees_all_close(two_steps(devices, **options), expected, rtol=1e-4, atol=2e-6)


def waits(step: Any, placement, model=None) -> dict[str, int]:
    text = step.lower(*abstract(placement, model or network())).as_text()
    return {kind: len(re.findall(rf'"stablehlo.{kind}"', text)) for kind in ("all_gather", "all_reduce")}


def test_a_step_waits_once_each_way_for_a_norm_and_once_for_a_piece_of_the_gradient():
    placement = Placement.of(jax.devices()[:4])
    found = waits(compile_train_step(make_train_step(network(), TX), placement), placement)
    assert found["all_gather"] == 3
    assert 3 < found["all_reduce"] <= 3 + PIECES


def test_norms_of_a_device_wait_only_for_the_running_averages_of_all_at_once():
    model, placement = network(norm_scope="device", norm_devices=4), Placement.of(jax.devices()[:4])
    found = waits(compile_train_step(make_train_step(model, TX), placement), placement, model)
    assert found["all_gather"] == 0
    assert 2 < found["all_reduce"] <= 2 + PIECES


def test_only_a_mapped_step_on_several_tpus_has_the_options_of_one(monkeypatch):
    one, four = (Placement.of(jax.devices()[:devices]) for devices in (1, 4))
    assert step_options(one, mapped=True) == step_options(four, mapped=True) == STEP_OPTIONS["cpu"]
    monkeypatch.setattr(Placement, "platform", "tpu")
    assert step_options(one, mapped=True) is None
    assert step_options(four, mapped=False) is None
    assert step_options(four, mapped=True) == MAPPED_OPTIONS["tpu"]


def test_one_device_has_the_program_of_before():
    placement = Placement.of(jax.devices()[:1])
    steps: list[Any] = [
        compile_train_step(make_train_step(network(), TX), placement, mapped=mapped) for mapped in (True, False)
    ]
    texts = [step.lower(*abstract(placement, network())).as_text() for step in steps]
    assert texts[0] == texts[1]
    assert "manual" not in texts[0]
    assert "all_reduce" not in texts[0]


def abstract(placement, model):
    state = jax.eval_shape(lambda key: init_state(model, TX, key, SHAPE), jax.random.key(0))
    rows = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement.batch()) for name, x in batch().items()}
    return placement.abstract(state), rows


def test_evaluation_is_mapped_and_says_the_same():
    model, found = network(), []
    for devices, mapped in ((1, False), (4, True)):
        placement = Placement.of(jax.devices()[:devices])
        state = create_state(model, TX, jax.random.key(0), SHAPE, mesh=placement)
        step: Any = compile_eval_step(make_eval_step(model, logits=True), placement, mapped=mapped)
        found.append(jax.device_get(step(state.variables, shard_batch(batch(), placement))))
    assert "manual" in step.lower(state.variables, shard_batch(batch(), placement)).as_text()
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_mapped_is_named():
    four, one = Placement.of(jax.devices()[:4]), Placement.of(jax.devices()[:1])
    task = Classification(5)
    assert unmapped(network(), four, task) is None
    assert unmapped(network(), four, MultiLabel(5)) is None
    assert unmapped(network(), four, Classification(5, criterion=get_loss("bce", 0.1))) is None
    assert "one device" in str(unmapped(network(), one, task))
    assert "sharded over 2" in str(
        unmapped(network(), Placement.of(jax.devices()[:4], kind="fsdp", fsdp_devices=2), task)
    )
    assert "TinyNet is not one of" in str(unmapped(TinyNet(), four, task))
    assert "of 8 devices, and there are 4" in str(unmapped(network(norm_scope="device", norm_devices=8), four, task))
    assert "loss is not this" in str(unmapped(network(), four, Classification(5, criterion=lambda a, b: a.sum(axis=1))))

    class Own(Classification):
        pass

    assert "task Own is not this" in str(unmapped(network(), four, Own(5)))
    register_norm("mine")(batch_norm)
    try:
        assert "norm mine" in str(unmapped(network(norm="mine"), four, task))
    finally:
        NORMS.pop("mine")
    assert uncut(network(norm_scope="ghost", ghost_size=8), 16, 4)
    assert uncut(network(), 18, 4)
    assert uncut(network(norm_scope="ghost", ghost_size=4), 16, 4) is None


def test_a_network_of_ones_own_runs_as_ever():
    mesh = make_mesh(jax.devices()[:4])
    step: Any = compile_train_step(make_train_step(TinyNet(), TX), mesh)
    state = create_state(TinyNet(), TX, jax.random.key(0), SHAPE, mesh=mesh)
    lowered = step.lower(state, shard_batch(batch(), mesh)).as_text()
    assert "manual" not in lowered
    assert "all_reduce" not in lowered
    _, metrics = step(state, shard_batch(batch(), mesh))
    assert np.isfinite(metrics["loss"])
    assert metrics["loss"].dtype == jnp.float32
