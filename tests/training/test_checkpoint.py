"""Saving and restoring states, also onto other devices, and what happens to damaged ones."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from resnet_jax.errors import DamagedError, RunError
from resnet_jax.models.layout import stack
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.loss_scale import LossScale
from resnet_jax.training.mesh import make_mesh, replicated
from resnet_jax.training.optimizers import OptimConfig, make_optimizer
from resnet_jax.training.schedules import ScheduleConfig
from resnet_jax.training.state import TrainState

NOTE = {"epoch": 1}


def new_state(step: int, devices: int = 1, width: int = 3) -> TrainState:
    state = TrainState(
        step=jnp.int32(step),
        params={"layer": {"kernel": jnp.full((2, width), float(step))}},
        batch_stats={"norm": {"mean": jnp.arange(3.0), "var": jnp.ones(3)}},
        opt_state=({"count": jnp.int32(step)}, None),
        rng=jax.random.key(7),
    )
    sharding = NamedSharding(make_mesh(jax.devices()[:devices]), PartitionSpec())
    return jax.device_put(state, sharding)


def assert_same(a: TrainState, b: TrainState):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a.replace(rng=None)), jax.tree.leaves(b.replace(rng=None)), strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype
    np.testing.assert_array_equal(jax.random.key_data(a.rng), jax.random.key_data(b.rng))


def test_a_round_trip_is_the_identity(tmp_path):
    progress = {"epoch_sums": {"loss": 0.1 + 0.2}, "watch": {"best": None, "wait": 3}, "finished": None}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", new_state(4), progress)
    with Checkpoints(tmp_path) as checkpoints:
        state, restored = checkpoints.restore("last", new_state(0))
    assert_same(state, new_state(4))
    assert restored == progress


def test_restores_onto_another_number_of_devices(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", new_state(4, devices=8), NOTE)
    with Checkpoints(tmp_path) as checkpoints:
        state, _ = checkpoints.restore("last", new_state(0, devices=2))
    assert len(state.params["layer"]["kernel"].devices()) == 2
    assert_same(state, new_state(4))


def layered_state(execution: str, blocks: int = 10) -> TrainState:
    """A state as a network of so many blocks has it: parameters, statistics and the optimizer's memory of them."""

    def stage(scale: float) -> dict:
        return {f"block{index}": {"branch": {"w": jnp.full((2, 3), scale * index)}} for index in range(blocks)}

    state = new_state(4).replace(
        params={"stage1": stage(1.0)},
        batch_stats={"stage1": stage(2.0)},
        opt_state=({"trace": {"stage1": stage(3.0)}},),
    )
    return jax.device_put(stack(state, execution), replicated(make_mesh(jax.devices()[:2])))


QUICK = {("auto", "unroll", 10), ("unroll", "auto", 10), ("auto", "auto", 4), ("scan", "auto", 4), ("auto", "scan", 4)}
"""Every execution is written and read, and every change of layout is made; of 4 blocks auto takes none together."""


@pytest.mark.parametrize(
    ("written", "read", "blocks"),
    [
        pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
        for case in itertools.product(("auto", "scan", "unroll"), ("auto", "scan", "unroll"), (4, 10))
    ],
)
@pytest.mark.slow
def test_any_execution_goes_on_with_the_state_of_any_other(tmp_path, written, read, blocks):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", layered_state(written, blocks), NOTE)
    like = jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else 0 * leaf,
                        layered_state(read, blocks))  # fmt: skip
    with Checkpoints(tmp_path) as checkpoints:
        state, _ = checkpoints.restore("last", like)
        part, step = checkpoints.restore_part("last", {"params": jax.tree.map(abstract, like.params)})
    assert_same(state, layered_state(read, blocks))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), part["params"], state.params))
    assert step == 4


def population(execution: str, members: int) -> TrainState:
    """A state of members that differ, with ten blocks each; the step is theirs together."""
    single = layered_state(execution)

    def spread(leaf: jax.Array) -> jax.Array:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jnp.stack([leaf if is_key else leaf + 100 * index for index in range(members)])

    return jax.tree.map(spread, single).replace(step=single.step)


@pytest.mark.parametrize(
    ("written", "read", "members"),
    [
        ("auto", "unroll", 9),
        ("unroll", "auto", 9),
        ("auto", "auto", 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [
            ("auto", "unroll", 2), ("unroll", "auto", 2), ("auto", "auto", 9)
        ]),
    ],
)  # fmt: skip
def test_the_members_of_a_population_are_not_taken_for_blocks(tmp_path, written, read, members):
    """Nine of them are as many as the equal blocks: exchanged, they would fit."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", population(written, members), NOTE, axis=1)
    with Checkpoints(tmp_path) as checkpoints:
        state, _ = checkpoints.restore("last", population(read, members), axis=1)
    assert_same(state, population(read, members))
    expected = jax.tree.map(lambda leaf: jnp.shape(leaf)[:2], population("auto", members).params)
    found = jax.tree.map(lambda leaf: jnp.shape(leaf)[:2], stack(state.params, axis=1))
    assert found == expected
    assert found["stage1"]["blocks"]["branch"]["w"] == (members, 9)


def test_the_layout_on_disk_does_not_depend_on_the_execution(tmp_path):
    names = {}
    for execution in ("auto", "scan", "unroll"):
        with Checkpoints(tmp_path / execution) as checkpoints:
            checkpoints.save("last", layered_state(execution), NOTE)
        files = (tmp_path / execution).rglob("_METADATA")
        names[execution] = [sorted(json.loads(file.read_text())["tree_metadata"]) for file in files]
    assert names["auto"] == names["scan"] == names["unroll"]
    assert any("'blocks'" in name for found in names["auto"] for name in found)


def abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def test_keeps_the_newest_and_the_best_apart(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps("last") == []
        for step in (1, 2, 5):
            checkpoints.save("last", new_state(step), NOTE)
        checkpoints.save("best", new_state(2), NOTE)
        checkpoints.save("best", new_state(2), NOTE)  # the same state again: nothing to do
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps("last") == [2, 5]
        assert checkpoints.steps("best") == [2]
        assert int(checkpoints.restore("last", new_state(0))[0].step) == 5


def test_saving_is_safe_when_the_state_is_donated_next(tmp_path):
    state = new_state(1)
    advance = jax.jit(lambda s: jax.tree.map(lambda a: a * 0, s.replace(rng=None)), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", state, NOTE)
        jax.block_until_ready(advance(state))
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore("last", new_state(0))[0], new_state(1))


def test_a_part_of_the_state_can_be_read_without_the_optimizer(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", new_state(3), NOTE)
    leaf = jax.ShapeDtypeStruct((2, 3), jnp.float32, sharding=replicated(make_mesh()))
    with Checkpoints(tmp_path, owner=False) as checkpoints:
        loaded, step = checkpoints.restore_part("last", {"params": {"layer": {"kernel": leaf}}})
    assert step == 3
    np.testing.assert_array_equal(loaded["params"]["layer"]["kernel"], 3.0)


# a load that fails inside Orbax leaves its event loop to the garbage collector: let that be here, not in another test
ignored = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def collected():
    yield
    gc.collect()


def failed_load(test):
    return ignored(pytest.mark.usefixtures("collected")(test))


@failed_load
def test_no_checkpoint_and_a_wrong_one_are_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(RunError, match="no 'best' checkpoint in"):
            checkpoints.restore("best", new_state(0))
        checkpoints.save("last", new_state(1), NOTE)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(RunError, match=r"step 1: .*\(2, 4\).*\(2, 3\)"):
        checkpoints.restore("last", new_state(0, width=4))


def test_what_a_killed_process_left_half_written_is_ignored(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", new_state(1), NOTE)
    half = tmp_path / "last" / "2.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "state").write_text("cut")
    with Checkpoints(tmp_path, owner=False) as reader:
        assert reader.steps("last") == [1]
    assert half.exists(), "a reader must not clear what may be another process's next checkpoint"
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps("last") == [1]


@failed_load
@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_checkpoint_raises(tmp_path, damage):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", new_state(1), NOTE)
    for file in (tmp_path / "last" / "1" / "state").rglob("*"):
        if file.is_file() and damage == "truncate":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif file.name == "_METADATA":
            file.unlink()
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(DamagedError, match="is damaged: state/"):
        checkpoints.restore("last", new_state(0))


OPTIMIZERS = {
    "sgd": OptimConfig("sgd", 0.1, clip_norm=1.0),
    "frozen": OptimConfig("sgd", 0.1, freeze=("conv",)),
    "rates": OptimConfig("sgd", 0.1, role_rates=(("head", 0.5),)),
    "adam": OptimConfig("adam", 0.1),
    "lars": OptimConfig("lars", 0.1, weight_decay=0.1),
    "lamb": OptimConfig("lamb", 0.1, weight_decay=0.1),
}


@pytest.mark.parametrize(
    "name", [name if name == "lamb" else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
def test_everything_the_optimizer_counts_comes_back(tmp_path, name):
    """The schedule's count above all: with it lost, the rate would start over, and only a whole run would tell."""
    params = {"stem": {"conv": {"kernel": jnp.ones((1, 1, 3, 4))}}, "head": {"kernel": jnp.ones((4, 2))}}
    cfg = dataclasses.replace(OPTIMIZERS[name], schedule=ScheduleConfig("cosine"))
    tx, _ = make_optimizer(cfg, params, steps_per_epoch=5, total_steps=10)

    update = jax.jit(tx.update)

    def state_after(updates: int) -> TrainState:
        new, opt_state = params, tx.init(params)
        for _ in range(updates):
            moves, opt_state = update(jax.tree.map(lambda x: 0.1 * x, new), opt_state, new)
            new = optax.apply_updates(new, moves)
        state = new_state(updates).replace(
            params=new,
            opt_state=opt_state,
            ema={"params": jax.tree.map(lambda x: x - 1, new), "batch_stats": {}},
            loss_scale=LossScale(jnp.float32(2.0 ** (10 + updates)), jnp.int32(17 + updates)),
        )
        return jax.device_put(state, replicated(make_mesh(jax.devices()[:1])))

    written = state_after(3)
    counts = [int(count) for _, count in optax.tree.get_all_with_path(written.opt_state, "count")]
    assert counts
    assert set(counts) == {3}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", written, NOTE)
    with Checkpoints(tmp_path) as checkpoints:
        state, _ = checkpoints.restore("last", state_after(0))
    assert_same(state, written)
    moves = [update(s.params, s.opt_state, s.params)[0] for s in (state, written)]
    jax.tree.map(np.testing.assert_array_equal, *moves)


def test_what_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    def full(*_, **__):
        raise ValueError(
            f'RESOURCE_EXHAUSTED: Failed writing: "{tmp_path}/x": No space left on device [os_error_code=28]'
        )

    monkeypatch.setattr(ocp, "save_checkpointables_async", full)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(
        RunError, match=r"cannot write a checkpoint in .*last: No space left on device\. Earlier checkpoints"
    ):
        checkpoints.save("last", new_state(1), NOTE)
    checkpoints.close()


def test_a_restored_state_is_donated_whole_and_compiles_nothing_again(tmp_path):
    """The very shardings, of keys too: an equal one of another spelling would be another program."""

    @jax.jit
    def made(step):
        return new_state_of(step)

    def new_state_of(step):
        return TrainState(step, {"w": jnp.full(3, step, jnp.float32)}, {}, {"m": jnp.ones(3)}, jax.random.key(1))

    @partial(jax.jit, donate_argnums=0)
    @chex.assert_max_traces(n=1)
    def advance(state):
        return jax.tree.map(lambda leaf: leaf * 2, state.replace(rng=None)).replace(rng=state.rng, step=state.step + 1)

    where = replicated(make_mesh(jax.devices()[:2]))
    like, state = (jax.device_put(made(jnp.int32(step)), where) for step in (0, 4))
    state = advance(advance(state))
    programs = advance._cache_size()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", state, NOTE)
        restored, _ = checkpoints.restore("last", like)
    jax.block_until_ready(advance(restored))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(restored))
    assert advance._cache_size() == programs
