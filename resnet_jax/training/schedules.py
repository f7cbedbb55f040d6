"""Learning-rate schedules: step -> float32 learning rate, pure and jittable.

Every schedule is ``base_lr * warmup(t) * body(t)``, where t is the 0-based index of the update that uses the rate, W
the number of warm-up steps, T the number of steps of the whole run and u = (t - W) / (T - W):

===========  ==================================================================  =======================
kind         body(t)                                                             source
===========  ==================================================================  =======================
constant     1
multistep    factor ** (number of milestones <= t), counted from step 0          He et al. 2016
cosine       end + (1 - end) (1 + cos(pi u)) / 2                                 Loshchilov, Hutter 2017
polynomial   end + (1 - end) (1 - u) ** power                                    You et al. 2017
onecycle     from 1/div_factor up to 1, down to 1/(div_factor final_div_factor)  Smith, Topin 2019
exponential  start ** (1 - t / (T - 1)), from start up to 1: the range test      Smith 2017
===========  ==================================================================  =======================

Warm-up is linear: s + (1 - s) t / W for t < W, then 1 (Goyal et al. 2017). Cosine and polynomial reach their end value
at t = T, one update after the last, as in Optax and timm, and stay there. One cycle follows PyTorch's `OneCycleLR`: a
rise of P steps peaks at update P - 1, and the last update, T - 1, has the smallest rate
(`optax.cosine_onecycle_schedule` takes one step more for both).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from resnet_jax.errors import UsageError
from resnet_jax.fields import is_known
from resnet_jax.training.duration import parse_duration
from resnet_jax.training.options import Anneal, ScheduleConfig, ScheduleKind


class _Run(NamedTuple):
    """What a body needs to know about the run, in steps."""

    steps_per_epoch: int
    total: int
    warmup: int

    def steps(self, duration: str) -> int:
        return parse_duration(duration).steps(self.steps_per_epoch, self.total)


class _Spec(NamedTuple):
    """The fields a schedule accepts, with their defaults, and body(settings, run) -> t -> multiplier."""

    defaults: Mapping[str, Any]
    body: Callable[[Mapping[str, Any], _Run], optax.Schedule]


_WARMUP = {"warmup": "0 steps", "warmup_start_factor": 0.0}


def make_schedule(cfg: ScheduleConfig, base_lr: float, *, steps_per_epoch: int, total_steps: int) -> optax.Schedule:
    """Build the schedule.

    Args:
        cfg: the schedule and its settings.
        base_lr: the rate all factors refer to (the peak for onecycle), finite and > 0, or a traced scalar.
        steps_per_epoch: optimizer steps in one pass over the training set, >= 1.
        total_steps: optimizer steps of the whole run, >= 1.

    Returns:
        A function from the step (int or int array of any shape) to the float32 learning rate of the same shape.

    Raises:
        UsageError: for a setting the schedule does not use, an unreadable duration, milestones out of order, or a
            warm-up as long as the run.

    >>> he = ScheduleConfig(kind="multistep", milestones=("50%", "75%"))
    >>> lr = make_schedule(he, 0.1, steps_per_epoch=391, total_steps=64_000)
    >>> [round(float(lr(t)), 4) for t in (0, 31_999, 32_000, 47_999, 48_000)]
    [0.1, 0.1, 0.01, 0.01, 0.001]
    """
    if is_known(base_lr) and not (math.isfinite(base_lr) and base_lr > 0):
        raise UsageError(f"the base learning rate must be finite and positive, got {base_lr}")
    if steps_per_epoch < 1 or total_steps < 1:
        raise UsageError(f"a schedule needs at least one step, got {steps_per_epoch} an epoch and {total_steps} in all")
    spec = SCHEDULES[cfg.kind]
    settings = _settings(cfg, spec.defaults)
    run = _Run(steps_per_epoch, total_steps, warmup=0)
    run = run._replace(warmup=run.steps(settings.get("warmup", "0 steps")))
    if run.warmup >= total_steps:
        raise UsageError(f"warm-up of {settings['warmup']!r} ({run.warmup} steps) leaves none of {total_steps} steps")
    rise = optax.linear_schedule(settings.get("warmup_start_factor", 1.0), 1.0, run.warmup) if run.warmup else _one
    body = spec.body(settings, run)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        t = jnp.asarray(step).astype(jnp.float32)  # exact up to 2**24 steps
        return jnp.float32(base_lr) * rise(t) * body(t)

    return schedule


def warmup_steps(cfg: ScheduleConfig, steps_per_epoch: int, total_steps: int) -> int:
    """Return the number of updates in which the rate first rises: the warm-up, or one cycle's rise to its peak.

    >>> warmup_steps(ScheduleConfig("cosine", warmup="2 epochs"), steps_per_epoch=10, total_steps=100)
    20
    """
    settings = _settings(cfg, SCHEDULES[cfg.kind].defaults)
    rise = settings["peak"] if "peak" in settings else settings.get("warmup", "0 steps")
    return parse_duration(rise).steps(steps_per_epoch, total_steps)


def _settings(cfg: ScheduleConfig, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Override the defaults with the given settings, and reject what the schedule does not use."""
    chosen = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg) if f.name != "kind"}
    chosen = {name: value for name, value in chosen.items() if value is not None and not _is_empty(value)}
    unused = [name for name in chosen if name not in defaults]
    if unused:
        raise UsageError(f"the {cfg.kind} schedule does not use {', '.join(unused)}; it accepts: {', '.join(defaults)}")
    return {**defaults, **chosen}


def _is_empty(value: Any) -> bool:
    return isinstance(value, tuple) and not value


def _one(t: jax.typing.ArrayLike) -> jax.Array:
    return jnp.ones_like(t, dtype=jnp.float32)


def _constant(settings: Mapping[str, Any], run: _Run) -> optax.Schedule:
    return _one


def _multistep(settings: Mapping[str, Any], run: _Run) -> optax.Schedule:
    milestones = settings["milestones"]
    if not milestones:
        raise UsageError("the multistep schedule needs milestones, such as ('50%', '75%')")
    steps = [run.steps(milestone) for milestone in milestones]
    if steps[0] < 1 or any(a >= b for a, b in itertools.pairwise(steps)):
        raise UsageError(f"milestones must be after step 0 and increasing, got {milestones} = steps {steps}")
    return optax.piecewise_constant_schedule(1.0, dict.fromkeys(steps, float(settings["factor"])))


def _cosine(settings: Mapping[str, Any], run: _Run) -> optax.Schedule:
    fall = optax.cosine_decay_schedule(1.0, run.total - run.warmup, alpha=settings["end_value"])
    return lambda t: fall(jnp.maximum(t - run.warmup, 0.0))


def _polynomial(settings: Mapping[str, Any], run: _Run) -> optax.Schedule:
    return optax.polynomial_schedule(
        1.0, settings["end_value"], settings["power"], run.total - run.warmup, transition_begin=run.warmup
    )


def _onecycle(settings: Mapping[str, Any], run: _Run) -> optax.Schedule:
    shape = _SHAPES[settings["anneal"]]
    rise = run.steps(settings["peak"])
    if rise > run.total:
        raise UsageError(f"peak {settings['peak']!r} (step {rise}) comes after the last of {run.total} steps")
    # Updates at which the rate is first, highest and last. Runs of a few steps may lack the rise or the fall.
    turns = jnp.array([0, max(rise - 1, 0), run.total - 1], dtype=jnp.float32)
    first = 1 / settings["div_factor"]
    last = first / settings["final_div_factor"]

    def body(t: jax.typing.ArrayLike) -> jax.Array:
        position = jnp.interp(jnp.asarray(t), turns, jnp.array([-1.0, 0.0, 1.0]))
        low = jnp.where(position < 0, first, last)
        return low + (1 - low) * shape(jnp.abs(position))

    return body


def _exponential(settings: Mapping[str, Any], run: _Run) -> optax.Schedule:
    lowest, last = math.log(settings["start_value"]), max(run.total - 1, 1)
    return lambda t: jnp.exp(lowest * (1 - jnp.minimum(jnp.asarray(t, jnp.float32) / last, 1.0)))


_SHAPES: Mapping[Anneal, Callable[[jax.Array], jax.Array]] = {
    "cosine": lambda x: (1 + jnp.cos(jnp.pi * x)) / 2,
    "linear": lambda x: 1 - x,
}
"""Functions that fall from 1 at x = 0 to 0 at x = 1."""

SCHEDULES: Mapping[ScheduleKind, _Spec] = MappingProxyType(
    {
        "constant": _Spec(_WARMUP, _constant),
        "multistep": _Spec({**_WARMUP, "milestones": (), "factor": 0.1}, _multistep),
        "cosine": _Spec({**_WARMUP, "end_value": 0.0}, _cosine),
        "polynomial": _Spec({**_WARMUP, "end_value": 0.0, "power": 1.0}, _polynomial),
        "onecycle": _Spec({"peak": "30%", "div_factor": 25.0, "final_div_factor": 1e4, "anneal": "cosine"}, _onecycle),
        "exponential": _Spec({"start_value": 1e-6}, _exponential),
    }
)
"""The schedules by name."""
