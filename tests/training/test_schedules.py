"""Schedules against closed forms, above all at the steps where something happens."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tyro
from pydantic import TypeAdapter

from resnet_jax.errors import UsageError
from resnet_jax.training.schedules import SCHEDULES, ScheduleConfig, make_schedule

BASE, EPOCH, TOTAL = 0.4, 10, 200
EXAMPLES = {
    "constant": ScheduleConfig("constant", warmup="2 epochs"),
    "multistep": ScheduleConfig("multistep", warmup="10%", milestones=("50%", "15ep"), factor=0.2),
    "cosine": ScheduleConfig("cosine", warmup="20 steps", warmup_start_factor=0.25, end_value=0.01),
    "polynomial": ScheduleConfig("polynomial", warmup="20 steps", power=2.0, end_value=0.1),
    "onecycle": ScheduleConfig("onecycle", peak="30%"),
    "exponential": ScheduleConfig("exponential", start_value=1e-4),
}


def _rates(cfg: ScheduleConfig, base: float = BASE, total: int = TOTAL) -> np.ndarray:
    schedule = make_schedule(cfg, base, steps_per_epoch=EPOCH, total_steps=total)
    return np.asarray(schedule(jnp.arange(total + 2)), np.float64)


def test_every_schedule_has_an_example() -> None:
    assert set(EXAMPLES) == set(SCHEDULES)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_float32_scalar_inside_and_outside_jit(kind: str) -> None:
    schedule = make_schedule(EXAMPLES[kind], BASE, steps_per_epoch=EPOCH, total_steps=TOTAL)
    traced = jax.jit(schedule)
    for step in (0, 19, 20, 100, 199):
        rate = schedule(step)
        assert rate.shape == ()
        assert rate.dtype == jnp.float32
        np.testing.assert_allclose(traced(jnp.int32(step)), rate, rtol=1e-6)


@pytest.mark.parametrize("kind", ["constant", "multistep", "cosine", "polynomial"])
def test_warmup_is_a_line_that_ends_at_the_base_rate(kind: str) -> None:
    rates, start = _rates(EXAMPLES[kind]), EXAMPLES[kind].warmup_start_factor or 0.0
    np.testing.assert_allclose(rates[:21], BASE * (start + (1 - start) * np.arange(21) / 20), rtol=1e-6)


def test_no_warmup_by_default() -> None:
    assert _rates(ScheduleConfig()) == pytest.approx(np.full(TOTAL + 2, BASE))


def test_recipe_of_he_et_al() -> None:
    """CIFAR-10: 0.1, divided by 10 at 32k and 48k of 64k iterations; the drop holds from that update on."""
    he = ScheduleConfig(kind="multistep", milestones=("50%", "48000 steps"))
    schedule = make_schedule(he, 0.1, steps_per_epoch=391, total_steps=64_000)
    steps = jnp.array([0, 31_999, 32_000, 47_999, 48_000, 63_999])
    np.testing.assert_allclose(schedule(steps), [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


def test_milestones_count_from_the_start_and_meet_the_warmup() -> None:
    """A milestone inside the warm-up scales the rest of the line; the later one is not moved by it."""
    rates = _rates(ScheduleConfig("multistep", warmup="20 steps", milestones=("10 steps", "150 steps"), factor=0.5))
    t = np.arange(TOTAL + 2)
    line = np.minimum(t / 20, 1)
    np.testing.assert_allclose(rates, BASE * line * 0.5 ** ((t >= 10).astype(int) + (t >= 150)), rtol=1e-6)


def test_exponential_grows_by_one_factor_and_ends_at_the_base_rate() -> None:
    rates = _rates(EXAMPLES["exponential"])
    np.testing.assert_allclose(rates[:TOTAL], np.geomspace(BASE * 1e-4, BASE, TOTAL), rtol=2e-5)
    assert rates[TOTAL:] == pytest.approx([BASE, BASE])


def test_cosine() -> None:
    rates, w, end = _rates(EXAMPLES["cosine"]), 20, 0.01
    t = np.arange(w, TOTAL + 1)
    body = end + (1 - end) * (1 + np.cos(np.pi * (t - w) / (TOTAL - w))) / 2
    np.testing.assert_allclose(rates[w : TOTAL + 1], BASE * body, rtol=2e-6)
    assert rates[TOTAL - 1] > BASE * end
    np.testing.assert_allclose(rates[[TOTAL, TOTAL + 1]], BASE * end, rtol=1e-5)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_polynomial(power: float) -> None:
    rates = _rates(ScheduleConfig("polynomial", warmup="20 steps", power=power, end_value=0.1))
    left = 1 - (np.arange(20, TOTAL + 2).clip(max=TOTAL) - 20) / (TOTAL - 20)
    np.testing.assert_allclose(rates[20:], BASE * (0.1 + 0.9 * left**power), rtol=1e-5)


def _torch_onecycle(step: int, total: int, peak: float, share: float, div: float, final: float, linear: bool) -> float:
    """PyTorch's OneCycleLR.get_lr with two phases, as in torch/optim/lr_scheduler.py."""
    initial = peak / div
    phases = [(share * total - 1, initial, peak), (total - 1, peak, initial / final)]
    start = 0.0
    for i, (end, low, high) in enumerate(phases):
        if step <= end or i == len(phases) - 1:
            pct = (step - start) / (end - start)
            return low + (high - low) * pct if linear else high + (low - high) / 2 * (1 + math.cos(math.pi * pct))
        start = end
    raise AssertionError


@pytest.mark.parametrize("anneal", ["cosine", "linear"])
@pytest.mark.parametrize(("share", "div", "final"), [(0.3, 25.0, 1e4), (0.5, 10.0, 2.0)])
def test_onecycle_is_pytorchs(anneal: str, share: float, div: float, final: float) -> None:
    cfg = ScheduleConfig("onecycle", peak=f"{share:.0%}", div_factor=div, final_div_factor=final, anneal=anneal)
    rates = _rates(cfg)
    expected = [_torch_onecycle(t, TOTAL, BASE, share, div, final, anneal == "linear") for t in range(TOTAL)]
    np.testing.assert_allclose(rates[:TOTAL], expected, rtol=1e-5, atol=1e-8)
    assert rates.argmax() == share * TOTAL - 1
    assert rates[TOTAL] == rates[TOTAL - 1]  # stays there


def test_onecycle_defaults_are_pytorchs() -> None:
    expected = [_torch_onecycle(t, TOTAL, BASE, 0.3, 25.0, 1e4, False) for t in range(TOTAL)]
    np.testing.assert_allclose(_rates(ScheduleConfig("onecycle"))[:TOTAL], expected, rtol=1e-5, atol=1e-8)


def test_onecycle_is_optax_one_step_earlier() -> None:
    """Same curve, but Optax's rise takes P steps and the whole T, PyTorch's P - 1 and T - 1."""
    ours = _rates(ScheduleConfig("onecycle", peak="60 steps"))
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies a bool with a float
        theirs = jax.vmap(optax.cosine_onecycle_schedule(TOTAL - 1, BASE, pct_start=59.5 / (TOTAL - 1)))(
            jnp.arange(float(TOTAL))
        )
    np.testing.assert_allclose(ours[:TOTAL], theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["constant", "cosine", "polynomial", "onecycle"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_smoke_runs_of_a_few_steps_have_finite_positive_rates(kind: str, total: int) -> None:
    rates = _rates(ScheduleConfig(kind), total=total)[:total]
    assert np.isfinite(rates).all()
    assert (rates > 0).all()


@pytest.mark.parametrize(
    ("cfg", "why"),
    [
        (
            ScheduleConfig("cosine", factor=0.1),
            "cosine schedule does not use factor; .*: warmup, .*, end_value$",
        ),
        (ScheduleConfig("constant", milestones=("50%",)), "does not use milestones"),
        (ScheduleConfig("onecycle", warmup="5 epochs"), "does not use warmup; it accepts: peak, div_factor"),
        (ScheduleConfig("constant", end_value=0.0, power=1.0), "does not use end_value, power"),
        (
            ScheduleConfig("constant", warmup="100%"),
            r"warm-up of '100%' \(200 steps\) leaves none of 200 steps",
        ),
        (ScheduleConfig("constant", warmup="5"), "cannot read the duration '5'"),
        (ScheduleConfig("multistep"), "needs milestones"),
        (ScheduleConfig("multistep", milestones=("75%", "50%")), r"increasing, got .* = steps \[150, 100\]"),
        (ScheduleConfig("multistep", milestones=("50%", "10 epochs")), r"steps \[100, 100\]"),
        (ScheduleConfig("multistep", milestones=("0%",)), "after step 0"),
        (
            ScheduleConfig("onecycle", peak="300 steps"),
            r"peak '300 steps' \(step 300\) comes after the last of 200",
        ),
    ],
)
def test_refusals(cfg: ScheduleConfig, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        make_schedule(cfg, BASE, steps_per_epoch=EPOCH, total_steps=TOTAL)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("kind", "cosin", r"unknown optim.schedule.kind 'cosin'; did you mean 'cosine'"),
        ("warmup_start_factor", 1.5, r"optim.schedule.warmup_start_factor must be in \[0, 1\], got"),
        ("factor", -0.1, r"optim.schedule.factor must be 0 or more, got"),
        ("end_value", float("nan"), r"optim.schedule.end_value must be in \[0, 1\], got"),
        ("power", 0.0, r"optim.schedule.power must be positive, got"),
        ("div_factor", 0.5, r"optim.schedule.div_factor must be 1 or more, got"),
        ("final_div_factor", 0.0, r"optim.schedule.final_div_factor must be positive, got"),
        ("anneal", "lineal", r"unknown optim.schedule.anneal 'lineal'; did you mean 'linear'"),
    ],
)
def test_values_out_of_range_are_refused_at_once(field: str, value: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        ScheduleConfig(**{field: value})


@pytest.mark.parametrize("rate", [0.0, -0.1, math.nan, math.inf])
def test_base_rates_out_of_range_are_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="base learning rate must be finite and positive"):
        make_schedule(ScheduleConfig(), rate, steps_per_epoch=1, total_steps=1)


@pytest.mark.parametrize(("epoch", "total"), [(0, 5), (5, 0)])
def test_runs_without_a_step_are_refused(epoch: int, total: int) -> None:
    with pytest.raises(UsageError, match="needs at least one step"):
        make_schedule(ScheduleConfig(), 0.1, steps_per_epoch=epoch, total_steps=total)


def test_command_line_and_yaml() -> None:
    cfg = tyro.cli(ScheduleConfig, args=["--kind", "multistep", "--milestones", "50%", "75%", "--warmup", "5 epochs"])
    assert cfg == ScheduleConfig("multistep", warmup="5 epochs", milestones=("50%", "75%"))
    adapter = TypeAdapter(ScheduleConfig)
    assert adapter.validate_python(adapter.dump_python(cfg, mode="json")) == cfg
