"""What a choice asks of its training, where the recipe was made for another one.

Fixup (Zhang et al. 2019, arXiv 1901.09321) has no normalization to catch a step that is too large, and its authors
train its scalar biases and scales at a tenth of the rate (section 4). At the full rate and with the short warm-up of a
recipe made for batch norm four of ten runs on the digits end at chance, at a tenth of it two; after 5 epochs of warm-up
none did (experiments/results/fixup). So where a network has residual rule ``fixup``:

* ``optim.role_rates`` left empty becomes ``scalar 0.1``;
* a warm-up that is the recipe's own becomes 5 epochs, at most a third of the run, if it is shorter.

Tasks that are weighed by uncertainty (Kendall et al. 2018, arXiv 1705.07115) have a log variance each. At the rate of
SGD for a network these run away with the easy tasks: of three tasks on the digits the hardest lost 9 points, and at a
hundredth of the rate it did not (experiments/results/multitask). So ``optim.role_rates`` left empty becomes
``log_variance 0.01`` with an optimizer that does not divide its steps by the size of the gradient.

What was chosen for the run stays as it is.
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
    """Return the residual rule of a network; None for a name that is not known."""
    row = MODELS.get(model.name)
    return model.changes.get("residual") or (None if row is None else row.config.residual)


def accompany(config: RunConfig, *, run: Length, warmup_is_open: bool) -> tuple[RunConfig, str | None]:
    """Add what the residual rule and the weighting of tasks ask for.

    Args:
        config: of the run.
        run: its length.
        warmup_is_open: whether the warm-up is the recipe's own, and not chosen for this run.

    Returns:
        The configuration, and the line that says what was added, or None.

    Raises:
        UsageError: a warm-up that cannot be read.

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
