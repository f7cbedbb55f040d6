"""Whether a recipe reaches its expected figure on the test split, or learns in a smoke run of a few seconds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from resnet_jax.errors import UsageError
from resnet_jax.runs.about import About, Expected
from resnet_jax.runs.config import RunConfig, differences
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.outcome import Summary
from resnet_jax.tasks.task import format_metric

#: Options that may differ from the recipe when its figure is checked: the seed, and the location of the same images.
FREE = ("seed", "data.source", "data.moved_to")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of a check.

    Attributes:
        passed: whether it passed.
        said: one line about it.
        values: the figures that were compared.
    """

    passed: bool
    said: str
    values: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"passed": self.passed, "said": self.said, **self.values}


def smoke_config(config: RunConfig, about: About | None, name: str) -> RunConfig:
    """Return a recipe in a form that runs in seconds.

    Raises:
        UsageError: if the recipe does not define one.
    """
    if about is None or not about.smoke:
        raise UsageError(f"recipe {name} does not say how it runs in seconds: it has no about.smoke, --smoke needs it")
    return with_values(config, about.smoke)


def require_expected(about: About | None, name: str) -> Expected:
    """Return the expected figure of a recipe.

    Raises:
        UsageError: if there is none.
    """
    if about is None or about.expected is None:
        raise UsageError(
            f"recipe {name} has no expected figure (about.expected), so --check has nothing to compare with; "
            "--smoke --check runs it for seconds and checks that it learns"
        )
    return about.expected


def require_as_shipped(recipe: RunConfig, config: RunConfig) -> None:
    """Refuse to check the figure of a recipe on a run that differs from the recipe.

    Raises:
        UsageError: if options differ, except for those in :data:`FREE`; lists them.
    """
    changed = [line for line in differences(recipe, config) if line.partition(":")[0] not in FREE]
    if changed:
        raise UsageError(f"--check is about the recipe as it stands, and this run differs: {'; '.join(changed)}")


def check_figure(summary: Summary, expected: Expected) -> Verdict:
    """Compare a run's figure on the test split with the expected one.

    Raises:
        UsageError: if the run has no such metric.
    """
    found = {**summary.metrics, summary.headline: summary.test_headline, "loss": summary.test_loss}
    if expected.metric not in found:
        raise UsageError(f"about.expected names the metric {expected.metric!r}, and this run has {', '.join(found)}")
    value, metric = found[expected.metric], expected.metric
    passed = value is not None and abs(value - expected.value) <= expected.tolerance + 1e-12
    got = "no number" if value is None else format_metric(metric, value)
    wanted = f"{format_metric(metric, expected.value)} +- {format_metric(metric, expected.tolerance)}"
    return Verdict(
        passed,
        f"check {'passed' if passed else 'FAILED'}: test {metric} {got}, expected {wanted}",
        {"metric": metric, "value": value, "expected": expected.value, "tolerance": expected.tolerance},
    )


def check_smoke(losses: Sequence[float | None], finished: str) -> Verdict:
    """Return whether a smoke run finished and learned: its loss is finite, and lower in the last quarter than first.

    Args:
        losses: losses of the logged updates, oldest first; None for non-finite ones.
        finished: why it ended.

    >>> check_smoke([2.0, 1.5, 1.0, 0.5], "steps").said
    'smoke check passed: loss 2.0000 at the start, 0.5000 at the end'
    >>> check_smoke([1.0, 2.0], "steps").passed, check_smoke([1.0, None], "steps").passed
    (False, False)
    """
    finite = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    values: dict[str, Any] = {"finished": finished, "losses": len(losses)}
    if len(finite) < max(2, len(losses)):
        return Verdict(False, f"smoke check FAILED: {len(finite)} finite losses of {len(losses)}, 2 are needed", values)
    part = max(1, len(finite) // 4)
    first, last = sum(finite[:part]) / part, sum(finite[-part:]) / part
    passed = last < first and finished == "steps"
    ending = "" if finished == "steps" else f", and the run ended by {finished}"
    said = f"loss {first:.4f} at the start, {last:.4f} at the end{ending}"
    values |= {"first_loss": first, "last_loss": last}
    return Verdict(passed, f"smoke check {'passed' if passed else 'FAILED'}: {said}", values)
