"""Training settings that a choice needs if the recipe was made for another choice.

Fixup (Zhang et al. 2019, arXiv 1901.09321) has no normalization to compensate for a step that is too large, and its
authors train its scalar biases and scales at a tenth of the rate (section 4). At the full rate and with the short
warm-up of a recipe made for batch norm, four of ten runs on the digits end at chance; at a tenth of the rate, two do;
with 5 epochs of warm-up as well, none did (experiments/results/fixup). So for a network with residual rule ``fixup``:

* ``optim.role_rates``, if left empty, becomes ``scalar 0.1``;
* a warm-up taken from the recipe becomes 5 epochs, but at most a third of the run, if it is shorter.

Tasks weighted by uncertainty (Kendall et al. 2018, arXiv 1705.07115) have one log variance each. At the rate that SGD
uses for a network, these run away in favor of the easy tasks: of three tasks on the digits the hardest lost 9 points,
which did not happen at a hundredth of the rate (experiments/results/multitask). So ``optim.role_rates``, if left empty,
becomes ``log_variance 0.01`` with an optimizer that does not divide its steps by the size of the gradient.

What the user chose for the run is not changed.
"""

from __future__ import annotations

import dataclasses

from resnet_jax.models.rows import MODELS
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.config import RunConfig
from resnet_jax.training.duration import parse_duration
from resnet_jax.training.schedules import SCHEDULES
from resnet_jax.training.shorten import Length

SCALAR_RATES = (("scalar", 0.1),)
VARIANCE_RATES = (("log_variance", 0.01),)
#: Optimizers that do not divide a step by the size of the gradient.
UNSCALED = ("sgd",)
WARMUP = "5 epochs"
LARGEST_SHARE = 1 / 3


def residual_of(model: ModelSpec) -> str | None:
    """Return the residual rule of a network; None for an unknown name."""
    row = MODELS.get(model.name)
    return model.changes.get("residual") or (None if row is None else row.config.residual)


def accompany(config: RunConfig, *, run: Length, warmup_is_open: bool) -> tuple[RunConfig, str | None]:
    """Add the settings that the residual rule and the weighting of tasks need.

    Args:
        config: the configuration of the run.
        run: its length.
        warmup_is_open: whether the warm-up is the recipe's own, not chosen for this run.

    Returns:
        The configuration, and a line that says what was added, or None.

    Raises:
        UsageError: for a warm-up that cannot be parsed.

    >>> from resnet_jax.runs.recipes import load_recipe
    >>> digits = load_recipe("digits")
    >>> fixup = dataclasses.replace(digits, model=ModelSpec(norm="none", residual="fixup"))
    >>> accompany(fixup, run=Length(285, 19), warmup_is_open=True)[1]
    "residual fixup trains its scalars at 0.1 of the rate and warms up for '5 epochs', not '1 epochs'"
    >>> accompany(digits, run=Length(285, 19), warmup_is_open=True)[1] is None
    True
    """
    rates_are_open = not config.optim.role_rates
    config, lines = _uncertainty(config)
    if residual_of(config.model) == "fixup":
        config, more = _fixup(config, run, warmup_is_open=warmup_is_open, rates_are_open=rates_are_open)
        lines += more
    return config, "; ".join(lines) or None


def _uncertainty(config: RunConfig) -> tuple[RunConfig, list[str]]:
    optim = config.optim
    if config.task.weighting != "uncertainty" or optim.role_rates or optim.name not in UNSCALED:
        return config, []
    optim = dataclasses.replace(optim, role_rates=VARIANCE_RATES)
    line = f"weighting by uncertainty trains its log variances at {VARIANCE_RATES[0][1]:g} of the rate"
    return dataclasses.replace(config, optim=optim), [line]


def _fixup(
    config: RunConfig, run: Length, *, warmup_is_open: bool, rates_are_open: bool
) -> tuple[RunConfig, list[str]]:
    optim, said = config.optim, []
    if rates_are_open:
        optim = dataclasses.replace(optim, role_rates=(*optim.role_rates, *SCALAR_RATES))
        said.append(f"trains its scalars at {SCALAR_RATES[0][1]:g} of the rate")
    kind = SCHEDULES.get(optim.schedule.kind)
    if warmup_is_open and kind is not None and "warmup" in kind.defaults:
        before = optim.schedule.warmup or "0 steps"
        wanted = min(5 * run.steps_per_epoch, int(run.steps * LARGEST_SHARE + 1e-9))
        if parse_duration(before).steps(run.steps_per_epoch, run.steps) < wanted:
            longer = WARMUP if wanted == 5 * run.steps_per_epoch else f"{wanted} steps"
            optim = dataclasses.replace(optim, schedule=dataclasses.replace(optim.schedule, warmup=longer))
            said.append(f"warms up for {longer!r}, not {before!r}")
    return dataclasses.replace(config, optim=optim), [f"residual fixup {' and '.join(said)}"] if said else []
