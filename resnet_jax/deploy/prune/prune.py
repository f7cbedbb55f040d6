"""``prune``: make smaller networks from a run directory, by any of the methods."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from resnet_jax.deploy.prune.how import HowToPrune
from resnet_jax.deploy.prune.lottery import lottery
from resnet_jax.deploy.prune.magnitude import density, magnitude_masks, masked
from resnet_jax.deploy.prune.structured import (
    FINETUNED,
    config_of,
    finetune_pruned,
    images_for,
    prune_network,
    record_of,
    require_new,
    write_pruned,
)
from resnet_jax.deploy.prune.sweep import sweep, write_tables
from resnet_jax.errors import UsageError
from resnet_jax.runs.trained import TrainedRun, load_network
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.paths import user_path

Tell = Callable[[str], None]


def prune(
    run_dir: str | Path,
    out: str | Path,
    how: HowToPrune | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    console: Console | None = None,
    tell: Tell = lambda _: None,
) -> dict[str, Any]:
    """Prune the network of a run directory.

    Args:
        run_dir: a trained or imported run.
        out: the directory to write. With one ratio it becomes a run directory and must be new; with several ratios, or
            a lottery, the same call resumes what was interrupted.
        how: what to prune.
        given: fields that override those of the run, such as ``data.source`` or ``optim.learning_rate``, with values as
            in YAML.
        console: displays the progress of training (default: none).
        tell: called with a line for everything the user should know.

    Returns:
        A description of the results, as JSON.

    Raises:
        UsageError: the network is not prunable, or the choices are incompatible.
        DataError: images cannot be read.
        RunError: the directory belongs to another command, or training failed.
    """
    how, given, out = how or HowToPrune(), dict(given or {}), user_path(Path(out))
    trained = load_network(run_dir)
    if how.by == "lottery":
        if given:
            raise UsageError(f"a lottery trains as the run was trained: {min(given)} cannot be another")
        return _lottery(trained, how, out, console, tell)
    if len(how.ratio) > 1:
        if how.by == "magnitude":
            raise UsageError("several ratios compare speed, and single zero weights are no faster: give one ratio")
        points = sweep(trained, how, out, given, console=console, tell=tell)
        title = f"{trained.config.model.name} pruned by {how.by}, quality against speed"
        write_tables(out, points, title, trained.task.headline)
        for line in (out / "table.md").read_text().splitlines()[2:]:
            tell(line)
        tell(f"table {out / 'table.md'}")
        return {"out": str(out), "points": [dataclasses.asdict(point) for point in points]}
    require_new(out)
    config = config_of(trained, given)
    if how.by == "magnitude":
        record = _magnitude(trained, config, how, out, tell)
    else:
        images = images_for(trained, config, how, given, tell)
        ratio = min(how.ratio)
        pruned = prune_network(trained, how, ratio, images, how.criterion or "norm_scale")
        record = record_of(trained, how, ratio, pruned)
        write_pruned(out, trained, config, pruned.model, pruned.variables, record)
        for line in pruned.lines():
            tell(line)
    tell(f"{trained.path} pruned is {out}")
    result = {"out": str(out), **record}
    if how.finetune is not None:
        from resnet_jax.runs.directory import RunDirectory

        fitted = finetune_pruned(RunDirectory.existing(out), how.finetune, given, console)
        result |= {"finetuned": str(out / FINETUNED), "summary": fitted.summary.to_json()}
    return result


def _magnitude(trained: TrainedRun, config: Any, how: HowToPrune, out: Path, tell: Tell) -> dict[str, Any]:
    params = trained.variables["params"]
    masks = magnitude_masks(params, min(how.ratio), scope=how.scope)
    variables = {**trained.variables, "params": masked(params, masks)}
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, keep_zeros=True))
    record = {"pruned_from": str(trained.path), **dataclasses.asdict(how), "ratio": min(how.ratio)}
    record["density"] = density(masks)
    write_pruned(out, trained, config, trained.model, variables, record)
    tell(f"{1 - density(masks):.1%} of the kernels' weights are 0; optim.keep_zeros keeps them so in training")
    return record


def _lottery(trained: TrainedRun, how: HowToPrune, out: Path, console: Console | None, tell: Tell) -> dict[str, Any]:
    rounds = lottery(trained, how, out, console=console, tell=tell)
    headline = rounds[0].summary.headline
    rows = [{"round": one.number, "density": one.density, headline: one.summary.test_headline} for one in rounds]
    lines = [f"| round | weights left | test {headline} |", "|---|---|---|"]
    lines += [f"| {row['round']} | {row['density']:.2%} | {row[headline]:.4f} |" for row in rows]
    write_whole(out / "table.md", "\n".join(lines) + "\n")
    write_whole(out / "table.json", json.dumps(rows, indent=2) + "\n")
    for line in lines:
        tell(line)
    return {"out": str(out), "rounds": rows}
