"""A run that moves: to other devices, a state that is cut, another layout, other dtypes; always on the same batches."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.layout import unstack
from resnet_jax.models.resnet import ResNet
from resnet_jax.ops import in_forms
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.compile import compile_train_step, create_state
from resnet_jax.training.placement import Placement, shard_batch
from resnet_jax.training.step import make_train_step
from tests.training.test_fsdp import SHAPE, host_batch

TX = optax.sgd(0.05, momentum=0.9)
#: Of a stage of ten blocks: enough for its checkpoint to be stacked.
DEEP = ResNetConfig((10,), (4,), stem="cifar", num_classes=8)
SHALLOW = dataclasses.replace(DEEP, stage_sizes=(1,), widths=(16,))


def place(devices: int, fsdp: int | None = None) -> Placement:
    kind = "replicated" if fsdp is None else "fsdp"
    return Placement.of(jax.devices()[:devices], kind=kind, fsdp_devices=fsdp, smallest=64)


def train(folder, way: list[tuple[Placement, ResNetConfig]], steps: int = 2) -> tuple[list[float], Any]:
    """Train ``steps`` updates at each place, through a checkpoint; return the losses and the last parameters."""
    losses, state = [], None
    for number, (placement, config) in enumerate(way):
        model = ResNet(config)
        state = create_state(model, TX, jax.random.key(0), SHAPE, mesh=placement)
        if number:
            with Checkpoints(folder) as checkpoints:
                state, _ = checkpoints.restore("last", state)
        step = compile_train_step(in_forms("plain", make_train_step(model, TX, norm_momentum=0.9)), placement)
        for index in range(steps):
            before = state
            state, metrics = step(state, shard_batch(host_batch(number * steps + index), placement))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.replace(rng=None)))
            losses.append(float(metrics["loss"]))
        with Checkpoints(folder) as checkpoints:
            checkpoints.save("last", state, {"step": int(state.step)})
    assert state is not None
    return losses, unstack(jax.device_get(state.params))


def assert_alike(one: tuple[list[float], Any], other: tuple[list[float], Any], tolerance: float) -> None:
    np.testing.assert_allclose(one[0], other[0], rtol=tolerance)
    assert jax.tree.structure(one[1]) == jax.tree.structure(other[1])
    for a, b in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_devices_and_placements_may_change(tmp_path):
    """8 -> 1 -> 4 (cut) -> 2 (cut): eight updates within 1e-5 of those of one device; only sums are in other order."""
    way = [place(8), place(1), place(4, 2), place(2, 2)]
    moved = train(tmp_path / "moved", [(where, SHALLOW) for where in way])
    stayed = train(tmp_path / "stayed", [(place(1), SHALLOW)] * len(way))
    assert_alike(moved, stayed, 1e-5)


@pytest.mark.slow
def test_layouts_may_change(tmp_path):
    """Unrolled -> scanned, cut over 2 devices -> unrolled: ten blocks, each state donated whole."""
    unrolled, scanned = (dataclasses.replace(DEEP, execution=one) for one in ("unroll", "scan"))
    moved = train(tmp_path / "moved", [(place(2), unrolled), (place(2, 2), scanned), (place(2), unrolled)])
    stayed = train(tmp_path / "stayed", [(place(2), unrolled)] * 3)
    assert_alike(moved, stayed, 1e-4)


def test_a_state_is_restored_in_other_dtypes(tmp_path):
    """Rounded once, to the nearest, by whoever asks for it: a library may; a run keeps the dtypes it began with."""
    state = create_state(ResNet(SHALLOW), TX, jax.random.key(0), SHAPE, mesh=place(1))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", state, {"step": 0})

    def narrow(leaf: Any) -> Any:
        return leaf.update(dtype=jnp.bfloat16) if leaf.dtype == jnp.float32 else leaf

    like = place(2).abstract(state)
    like = like.replace(params=jax.tree.map(narrow, like.params), opt_state=jax.tree.map(narrow, like.opt_state))
    with Checkpoints(tmp_path) as checkpoints:
        found, _ = checkpoints.restore("last", like)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(state.params), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_array_equal(a, b.astype(jnp.bfloat16))
