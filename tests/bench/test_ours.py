"""Our side in this process: the step it runs is the library's own."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from resnet_jax.bench.ours import Ours, optimizer, prepare, random_batch, train_step
from resnet_jax.bench.workload import Workload
from resnet_jax.errors import UsageError
from resnet_jax.models import count
from resnet_jax.training.compile import create_state
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.step import make_train_step


def test_every_dispatch_is_an_update(tiny):
    side = prepare(tiny.to_dict())
    assert side.images == 32
    for _ in range(3):
        side.dispatch()
    side.wait()
    assert int(side._state.step) == 3
    assert side._result["rejected"] == 0
    facts = side.facts
    assert facts["params"] == count(tiny.network(), tiny.input_shape).params
    assert (facts["platform"], facts["dtype"]) == ("cpu", "float32"), "the CPU's default"
    assert facts["compile_seconds"] > 0
    assert facts["trace_seconds"] > 0
    assert facts["temp_bytes"] > 0
    assert facts["versions"].keys() == {"jax", "jaxlib", "flax"}


@pytest.mark.slow
def test_several_steps_per_dispatch_are_the_single_steps(tiny):
    together = dataclasses.replace(tiny, steps_per_dispatch=3)
    model = tiny.network()
    tx = optimizer(tiny, model)
    state = create_state(model, tx, jax.random.key(0), tiny.input_shape, mesh=make_mesh(jax.devices()[:1]))
    batches = random_batch(together, 10)
    assert batches["image"].shape == (3, 32, 8, 8, 3)
    scanned, metrics = jax.jit(train_step(together, model, tx))(state, batches)
    step, losses = jax.jit(make_train_step(model, tx)), []
    for index in range(3):
        state, one = step(state, {name: value[index] for name, value in batches.items()})
        losses.append(one["loss"])
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), scanned.params, state.params)
    side = Ours(together)
    side.dispatch()
    side.wait()
    assert side.images == 96
    assert int(side._state.step) == 3


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_inference_runs_the_folded_network(tiny, norm, monkeypatch):
    model = tiny.network()
    model = type(model)(dataclasses.replace(model.config, norm=norm))
    monkeypatch.setattr(Workload, "network", lambda _: model)
    side = Ours(dataclasses.replace(tiny, mode="infer"))
    side.dispatch()
    side.dispatch()
    side.wait()
    assert side._result.shape == (32, 10)
    assert "batch_stats" not in side._state
    images = random_batch(tiny, 10)["image"]
    variables = jax.jit(lambda key: model.init(key, images[:1], train=False))(jax.random.key(0))
    expected = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(side._result, expected, atol=1e-4)


def test_an_unknown_choice_is_the_networks_error(tiny):
    with pytest.raises(UsageError, match="dtype"):
        Ours(dataclasses.replace(tiny, model=tiny.model.replace(dtype="float12")))
