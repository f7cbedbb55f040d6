"""Check that a whole run would get through: a few batches of each of its parts, in a temporary directory.

This is PyTorch Lightning's ``fast_dev_run``, including what our runs leave behind: checkpoints, which are restored,
observers and figures.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console as RichConsole

from resnet_jax.data.records import Source, Subset
from resnet_jax.errors import RunError, UsageError
from resnet_jax.report.text import say
from resnet_jax.runs.arrays import Arrays
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import RunData
from resnet_jax.runs.fit import fit
from resnet_jax.runs.length import Origin, fit_length, length_of
from resnet_jax.runs.stages import stages_of
from resnet_jax.training.options import ScheduleConfig
from resnet_jax.training.schedules import make_schedule

#: The maximum number of updates until every stage of a progressive resolution has one.
MOST = 1000


def fast_dev_run(
    config: RunConfig,
    batches: int = 1,
    *,
    data: str | Path | Arrays | None = None,
    console: RichConsole | None = None,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Train, validate, save, restore, train on and test with a few batches; remove everything.

    The schedule is built as in the run, for its whole length; these updates use the base rate. All data is opened,
    split and examined as usual.

    Args:
        config: the run.
        batches: number of batches of training, validation and test.
        data: data to use instead of ``data.source``.
        console: where to show progress.
        origin: the recipe that ``config`` started from.

    Returns:
        ``passed`` (True, or an error was raised), ``said``, ``batches``, ``steps`` of the whole run, ``files`` that it
        left, ``seconds``.

    Raises:
        ResNetJaxError: whatever the whole run would have raised in these parts.
    """
    if batches < 1:
        raise UsageError(f"fast_dev_run is 1 or more batches, got {batches}")
    began, console = time.perf_counter(), RichConsole(quiet=True) if console is None else console
    origin = origin or Origin.of(config)
    whole: list[int] = []

    def narrow(images: RunData) -> RunData:
        per_epoch = len(images.splits.train) // config.train.batch_size
        if per_epoch:  # or fit says it better
            fitted, _ = fit_length(config, origin, per_epoch)
            total = length_of(fitted, per_epoch).steps
            rate, schedule = fitted.optim.learning_rate, fitted.optim.schedule
            make_schedule(schedule, rate, steps_per_epoch=per_epoch, total_steps=total)
            whole.append(total)
        most = batches * config.train.batch_size
        splits = images.splits
        splits = dataclasses.replace(splits, val=_first(splits.val, most), test=_first(splits.test, most))
        return dataclasses.replace(images, splits=splits)

    steps = _updates(config, batches)
    with tempfile.TemporaryDirectory(prefix="fast-dev-run-") as folder:
        run = Path(folder) / "run"
        say(console, f"Fast dev run: {batches} batch{'es' if batches > 1 else ''} of training, validation and test.")
        fit(short_config(config, steps), run, data=data, console=console, narrow=narrow)
        say(console, "Once more in the same directory, from its checkpoint:")
        again = fit(short_config(config, steps + 1), run, data=data, console=console, narrow=narrow).summary
        if again.steps != steps + 1:
            raise RunError(f"the checkpoint after step {steps} was restored as that after step {again.steps - 1}")
        files = sorted(path.name for path in run.iterdir() if not path.name.startswith("."))
    total = whole[-1] if whole else 0
    said = (
        f"fast dev run passed: {steps} update{'s' if steps > 1 else ''}, validation, a checkpoint saved and restored, "
        f"one update more, the test, and {', '.join(files)}; all removed again. The whole run makes {total:,} updates"
    )
    say(console, said)
    seconds = time.perf_counter() - began
    return {"passed": True, "said": said, "batches": batches, "steps": total, "files": files, "seconds": seconds}


def short_config(config: RunConfig, steps: int) -> RunConfig:
    """Return a run of this many updates that validates and logs everything the original would."""
    train = config.train
    averaging = (
        dataclasses.replace(train.ema, start="0 steps", every="1 steps") if train.ema.kind == "swa" else train.ema
    )
    return dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, schedule=ScheduleConfig("constant")),
        train=dataclasses.replace(
            train,
            length=f"{steps} steps",
            limit=None,
            ema=averaging,
            validate_every="1 steps",
            save_every=None,
            log_every="1 steps",
            depth_every=None if train.depth_every is None else "1 steps",
        ),
    )


def _updates(config: RunConfig, batches: int) -> int:
    """Return the fewest updates, at least ``batches``, in which every stage of a progressive resolution has one."""
    for steps in range(batches, MOST):
        try:
            stages_of(config, steps, steps)
        except UsageError:
            continue
        return steps
    return batches


def _first(records: Source | None, most: int) -> Source | None:
    if records is None or len(records) <= most:
        return records
    return Subset(records, np.arange(most))
