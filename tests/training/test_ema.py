"""Moving averages: the closed form of the recursion, the warm-up, dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.training.ema import Averaging, ema_init, ema_update

REFERENCE = Path(__file__).parents[1] / "reference" / "torch.npz"


def test_many_updates_equal_the_weighted_sum() -> None:
    """e_n = d^n e_0 + (1 - d) sum_i d^(n-i) x_i, for parameters and statistics alike, under jit."""
    xs, d = np.random.default_rng(0).normal(size=(20, 3)), 0.9
    tree = {"params": {"w": jnp.zeros(3)}, "batch_stats": {"mean": jnp.ones(3)}}
    update = jax.jit(lambda e, x: ema_update(e, {"params": {"w": x}, "batch_stats": {"mean": 2 * x}}, d, 1000))
    for x in xs:
        tree = update(tree, jnp.asarray(x, jnp.float32))
    weights = (1 - d) * d ** np.arange(19, -1, -1.0)
    np.testing.assert_allclose(tree["params"]["w"], weights @ xs, atol=1e-6)
    np.testing.assert_allclose(tree["batch_stats"]["mean"], d**20 + 2 * weights @ xs, atol=1e-6)


def test_the_default_warms_up_as_tensorflow_does() -> None:
    steps = np.array([0, 1, 8, 79, 80, 81, 10**6])
    decays = [1 - Averaging(0.9).rate(jnp.int32(t)) for t in steps]
    np.testing.assert_allclose(decays, np.minimum(0.9, (1 + steps) / (10 + steps)), rtol=1e-6)
    first = ema_update({"w": jnp.zeros(())}, {"w": jnp.ones(())}, 0.9999, jnp.int32(0))
    np.testing.assert_allclose(first["w"], 0.9, rtol=1e-6)


@pytest.mark.parametrize("warmup", ["tensorflow", "power", "none"])
def test_the_rate_of_a_large_decay_is_not_rounded(warmup: str) -> None:
    """1 - float32(0.9999) is 1.00017e-4."""
    np.testing.assert_allclose(Averaging(0.9999, warmup).rate(10**9), 1e-4, rtol=1e-6)


TIMM_ALL = Averaging(0.7, "power", gamma=2.0, power=0.75, min_decay=0.3, update_after=3)
REFERENCES = {
    "timm": Averaging(0.9, "none"),
    "timm_warmup": Averaging(0.8, "power"),
    "timm_all": TIMM_ALL,
    "timm_after": Averaging(0.9, "none", update_after=4),
    "timm_buffers": Averaging(0.9, "none", statistics="latest"),
    "torch": Averaging(0.9, "none", statistics="latest"),
    "torch_buffers": Averaging(0.9, "none"),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_averages_equal_timms_and_pytorchs(name: str) -> None:
    """ModelEmaV3 and AveragedModel with get_ema_multi_avg_fn, over 12 updates (tests/reference)."""
    stored = np.load(REFERENCE)
    average = ema_init(_variables(stored, 0))
    update = jax.jit(lambda e, x, k: ema_update(e, x, REFERENCES[name], k))
    for k in range(12):
        average = update(average, _variables(stored, k + 1), jnp.int32(k))
        np.testing.assert_allclose(average["params"]["w"], stored[f"ema/{name}/values"][k], rtol=2e-6, atol=1e-7)
        statistics = stored[f"ema/{name}/statistics"][k]
        np.testing.assert_allclose(average["batch_stats"]["mean"], statistics, rtol=2e-6, atol=1e-7)


def _variables(stored: Mapping[str, np.ndarray], row: int) -> dict:
    return {
        "params": {"w": jnp.asarray(stored["ema/values"][row])},
        "batch_stats": {"mean": jnp.asarray(stored["ema/statistics"][row])},
    }


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"warmup": "timm"}, "train.ema.warmup 'timm'"),
        ({"statistics": "none"}, "train.ema.statistics 'none'"),
        ({"warmup": "power", "min_decay": 0.95}, "min_decay .* 0.9, got 0.95"),
        ({"warmup": "power", "gamma": 0.0}, "train.ema.gamma must be positive"),
        ({"update_after": -1}, "train.ema.update_after must be 0 or more"),
        ({"power": 0.75}, "train.ema.warmup power, not tensorflow"),
    ],
)
def test_choices_out_of_range_are_refused(choices: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Averaging(0.9, **choices)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_average_is_float32(dtype: jnp.dtype) -> None:
    new = {"w": jnp.ones(2, dtype)}
    ema = ema_init({"w": jnp.zeros(2, dtype)})
    assert ema["w"].dtype == jnp.float32
    ema = ema_update(ema, new, Averaging(0.999), 10**9)  # below the resolution of bfloat16 once added up
    assert ema["w"].dtype == jnp.float32
    np.testing.assert_allclose(ema["w"], 0.001, rtol=1e-4)


def test_init_copies_so_that_both_trees_may_be_donated() -> None:
    x = jnp.ones(3)
    assert ema_init({"w": x})["w"].unsafe_buffer_pointer() != x.unsafe_buffer_pointer()


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(UsageError, match=r"must be in \[0, 1\)"):
        ema_update({"w": jnp.ones(1)}, {"w": jnp.ones(1)}, decay)


def test_stochastic_weight_averaging_is_the_mean_of_the_snapshots() -> None:
    """Behind updates 4, 7 and 10 of 12; before the first the average is the network (Izmailov et al., algorithm 1)."""
    swa = Averaging(kind="swa", start="4 steps", every="3 steps")
    xs = np.random.default_rng(0).normal(size=(13, 5)).astype(np.float32)
    average = ema_init({"params": {"w": jnp.asarray(xs[0])}, "batch_stats": {"mean": jnp.asarray(2 * xs[0])}})
    update = jax.jit(lambda e, x, k: ema_update(e, {"params": {"w": x}, "batch_stats": {"mean": 2 * x}}, swa, k))
    snapshots: list[np.ndarray] = []
    for n in range(1, 13):
        average = update(average, jnp.asarray(xs[n]), jnp.int32(n - 1))
        if n in (4, 7, 10):
            snapshots.append(xs[n])
        if n <= 4:
            np.testing.assert_array_equal(average["params"]["w"], xs[n])
        else:
            np.testing.assert_allclose(average["params"]["w"], np.mean(snapshots, axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(average["batch_stats"]["mean"], 2 * average["params"]["w"], rtol=1e-5, atol=1e-6)


def test_members_of_a_population_are_averaged_each_by_its_own_count() -> None:
    """One has had an update rejected: its count is one behind."""
    swa, counts = Averaging(kind="swa", start="2 steps", every="2 steps"), jnp.array([3, 2])
    average, new = jnp.zeros((2, 3)), jnp.ones((2, 3))
    moved = jax.vmap(lambda e, x, k: ema_update({"w": e}, {"w": x}, swa, k)["w"])(average, new, counts)
    np.testing.assert_array_equal(moved, [[0.5] * 3, [0.0] * 3])


def test_its_lengths_are_of_the_run() -> None:
    swa = Averaging(kind="swa", start="160ep", every="0.5 epochs")
    assert (swa.start, swa.every, swa.on, Averaging().on) == ("160 epochs", "0.5 epochs", True, False)
    assert swa.over(100, 20_000) == Averaging(kind="swa", start="16000 steps", every="50 steps")
    assert Averaging(0.9).over(100, 20_000) == Averaging(0.9)
    with pytest.raises(UsageError, match="160 epochs is update 16,000 of a run of 15,000 updates: nothing would be"):
        swa.over(100, 15_000)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"kind": "swa", "decay": 0.9}, "train.ema.decay goes with train.ema.kind ema, not swa"),
        ({"kind": "swa", "warmup": "none"}, "train.ema.warmup goes with train.ema.kind ema"),
        ({"kind": "swa", "start": "soon"}, "train.ema.start: cannot read the duration 'soon'"),
        ({"kind": "swa", "every": "5 min"}, "train.ema.every is in epochs, steps or a share of the run, got '5 min'"),
        ({"kind": "swa", "every": "0 steps"}, "train.ema.every"),
        ({"decay": 0.9, "start": "50%"}, "train.ema.start goes with train.ema.kind swa, not ema"),
        ({"reestimate": 5}, "need train.ema.decay"),
        ({"kind": "sma"}, "unknown train.ema.kind 'sma'"),
    ],
)
def test_what_does_not_go_with_the_kind_is_refused(choices: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Averaging(**choices)
