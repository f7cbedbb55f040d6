"""Progressive resolution: which size when, one compilation a size, and the same run wherever it is resumed."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.config import DataConfig
from resnet_jax.errors import UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.build import build_parts, training_feed
from resnet_jax.runs.config import RunConfig, TrainConfig
from resnet_jax.runs.data import load_images
from resnet_jax.runs.stages import in_stages, stages_of
from resnet_jax.training.feeds import SingleSteps
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.placement import Placement

SIZES = ("4@0%", "6@2 steps", "8@70%")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("stages") / "images.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.integers(0, 256, (90, 8, 8, 3), np.uint8), y=np.arange(90) % 3)
    data = DataConfig(f"npz:{path}", sizes=SIZES, augment=("random_crop(1)", "flip"))
    train = TrainConfig("10 steps", batch_size=16)
    config = RunConfig(model=ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,)), data=data, train=train)
    return config, load_images(config)


def made(config, images, traced):
    """A feed of a step that adds up sizes, whose traces are counted."""

    @jax.jit
    def step(state, batch):
        traced.append(batch["image"].shape[1:3])
        return state + batch["image"].astype(jnp.float32).mean(), {"side": jnp.int32(batch["image"].shape[1])}

    def make(part):
        feed = training_feed(config, part)
        return lambda seeds: SingleSteps(step, lambda start, stop: feed.iterate(start, stop, threads=0))

    return in_stages(config, images, training_feed(config, images).steps_per_epoch, 10, make)(None)


def test_every_stage_has_its_size_and_is_compiled_once_and_resumes_anywhere(run):
    config, images = run
    traced, whole, sides = [], jnp.float32(0), []
    states = [whole]
    for call in made(config, images, traced).calls(0, 10):
        whole, metrics = call.run(whole)
        states.append(whole)
        sides.append((call.first, int(metrics["side"])))
    assert sides == [(step, 4 if step < 2 else 6 if step < 7 else 8) for step in range(10)]
    assert traced == [(4, 4), (6, 6), (8, 8)]
    for start in (1, 2, 5, 7):
        state = states[start]
        for call in made(config, images, []).calls(start, 10):
            state, _ = call.run(state)
        assert state == whole


def test_images_and_their_order_are_those_of_a_run_of_that_size(run):
    config, images = run
    plain = dataclasses.replace(config, data=dataclasses.replace(config.data, sizes=(), image_size=6))
    expected = training_feed(plain, load_images(plain)).batch(3)
    staged = made(config, images, []).feeds[1].batches
    for name, values in next(iter(staged(3, 4))).items():
        np.testing.assert_array_equal(values, expected[name])


def test_without_sizes_nothing_is_staged(run):
    config, images = run
    plain = dataclasses.replace(config, data=dataclasses.replace(config.data, sizes=()))
    assert isinstance(made(plain, images, []), SingleSteps)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (("8",), "data.sizes: cannot read '8'; write side@when"),
        (("0@0%",), "cannot read '0@0%'"),
        (("8@10%",), r"the first must begin at 0%.* begin at the updates \[1\] of 10"),
        (("6@0%", "8@2 steps", "4@2 steps"), r"each after the one before.* \[0, 2, 2\] of 10"),
        (("6@0%", "8@soon"), "data.sizes 8@soon: "),
        (("6@0%", "8@10 min"), "data.sizes 8@10 min: .* cannot be said in steps"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(UsageError, match=message):
        stages_of(RunConfig(data=DataConfig(sizes=sizes)), steps_per_epoch=5, total_steps=10)


def test_sizes_are_of_images(run):
    config, images = run
    card = dataclasses.replace(images.card, image_shape=(50, 3))
    with pytest.raises(UsageError, match=r"data.sizes are of images \(height, width, channels\), not of \(50, 3\)"):
        in_stages(config, dataclasses.replace(images, card=card), 5, 10, lambda part: lambda seeds: None)


def test_steps_that_stay_on_the_devices_are_refused_with_the_reason(run):
    config, images = run
    several = dataclasses.replace(config, train=dataclasses.replace(config.train, steps_per_dispatch=2))
    with pytest.raises(UsageError, match=r"data.sizes brings them to another size in each stage"):
        build_parts(several, images, Placement(make_mesh(jax.devices()[:1])))


@pytest.mark.slow
def test_a_network_resumed_in_the_middle_of_a_stage_is_the_same(run):
    config, images = run
    placement = Placement(make_mesh(jax.devices()[:1]))

    def trained(start, stop, state):
        parts = build_parts(config, images, placement)
        state = parts.new_state() if state is None else state
        feed = parts.make_feed()
        for call in feed.calls(start, stop):
            state, _ = call.run(state)
        return state, [stage.step._cache_size() for stage in feed.feeds]

    whole, compiled = trained(0, 10, None)
    assert set(compiled) == {3}  # programs of the one step: one a size
    half, _ = trained(0, 4, None)
    resumed, _ = trained(4, 10, half)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    evaluated = build_parts(config, images, placement).evaluate(
        {"params": whole.params, "batch_stats": whole.batch_stats}, images.splits.test
    )
    assert evaluated.examples == len(images.splits.test)
