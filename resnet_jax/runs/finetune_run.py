"""Fine-tuning from a network, trained or imported, to a table of before and after, in stages that can be resumed.

============================  ====================================================================================
``finetune.json``             what was asked for, and what was chosen for it; the same command continues with that
``source/``                   the network, if it was imported from a weights file
``probe/``                    the linear probe: probe.json, confusion.npz, confusion.png, and the run directory
                              ``network``
``seedN/head/``               the run of the classifier alone, with seed N
``seedN/all/``                the run of the whole network
``seedN/scratch/``            the run from scratch
``table.md``, ``table.json``  the results before and after
============================  ====================================================================================
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole

from resnet_jax.data.look import look_at
from resnet_jax.errors import RunError, UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.report.text import say
from resnet_jax.runs.auto import describe, lines_of
from resnet_jax.runs.config import RunConfig, config_to_dict, without_effect
from resnet_jax.runs.data import RunData, load_images
from resnet_jax.runs.defaults import Chosen, Machine
from resnet_jax.runs.finetune_how import HowToFinetune, ImportAs, head_config, head_steps, starting_from, with_steps
from resnet_jax.runs.finetune_plan import FinetunePlan, look_ahead, make_plan
from resnet_jax.runs.finetune_probe import NETWORK, probe_rows
from resnet_jax.runs.finetune_table import ALL, HEAD, PROBE, SCRATCH, Row, Table, table_of
from resnet_jax.runs.fit import fit
from resnet_jax.runs.foreign import import_weights
from resnet_jax.runs.length import Origin
from resnet_jax.runs.outcome import Summary
from resnet_jax.runs.recipe_table import text_table
from resnet_jax.runs.recipes import config_from_dict
from resnet_jax.runs.trained import TrainedRun, load_network
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.lock import locked
from resnet_jax.runtime.paths import user_path
from resnet_jax.runtime.plain_json import load_json

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class FinetuneDirectory:
    """The output directory of a fine-tuning."""

    path: Path

    asked = property(lambda self: self.path / "finetune.json")
    source = property(lambda self: self.path / "source")
    probe = property(lambda self: self.path / "probe")
    table = property(lambda self: self.path / "table.md")
    table_json = property(lambda self: self.path / "table.json")

    def run(self, seed: int, stage: str) -> Path:
        """Return the run directory of a stage."""
        return self.path / f"seed{seed}" / stage


def default_out(start: str, data: str, how: HowToFinetune, given: Mapping[str, Any]) -> Path:
    """Return ``runs/finetune-DATA-HASH``: the same for the same command, whatever its number of seeds.

    >>> one, more = (default_out("runs/a", "cells", HowToFinetune(seeds=n), {}) for n in (1, 3))
    >>> one == more, one == default_out("runs/a", "cells", HowToFinetune("bit"), {}), one.name[:15]
    (True, False, 'finetune-cells-')
    """
    text = json.dumps(_asked(start, data, how, given), sort_keys=True)
    stem = re.sub(r"[^\w.-]+", "-", Path(data).stem.rpartition(":")[2]).strip("-.") or "data"
    return Path("runs") / f"finetune-{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def finetune(
    start: str | Path,
    data: str | Path,
    how: HowToFinetune | None = None,
    *,
    out: str | Path | None = None,
    given: Mapping[str, Any] | None = None,
    weights: ImportAs | None = None,
    console: RichConsole | None = None,
) -> Table:
    """Fine-tune a network on a data set, stage by stage; results of an earlier call are reused.

    Args:
        start: a run directory, trained or imported, or a weights file (`weights import`), whose network is
            ``model.name`` in ``given`` unless the file contains it.
        data: a path or a source, as accepted by :func:`resnet_jax.data.look.look_at`.
        how: how to fine-tune.
        out: the directory (default: :func:`default_out`).
        given: field, such as ``optim.learning_rate`` -> value, as in YAML; overrides the choices.
        weights: how to read a weights file.
        console: where to show progress (default: nowhere).

    Raises:
        UsageError: if network and data do not fit, or a choice is invalid.
        DataError: if the data or the weights cannot be read.
        RunError: if the directory belongs to another command, or a training failed.
        Interrupted: on Ctrl-C or SIGTERM; the state is saved.
    """
    how, given, console = how or HowToFinetune(), dict(given or {}), console or RichConsole(quiet=True)
    start, data = str(start), str(data)
    folder = FinetuneDirectory(user_path(Path(out) if out is not None else default_out(start, data, how, given)))

    def tell(line: str) -> None:
        say(console, line)

    known = _read(folder, _asked(start, data, how, given))
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write the directory {folder.path}: {error.strerror or error}") from error
    with locked(folder.path, "fine-tuning", tell):
        source = _source(folder, start, given, weights or ImportAs(), tell)
        images = None
        if known is None:
            known, images = _choose(source, start, data, how, given, tell)
            write_whole(folder.asked, json.dumps(known, indent=2) + "\n")
        else:
            tell(f"{folder.path} contains a fine-tuning: its choices are kept, and the data is not examined again.")
        plan = _plan_of(known, folder)
        rows = probe_rows(folder.probe, source, plan.config, images, tell)
        del images
        rows += _stages(folder, source, plan, how, tuple(known["image_shape"]), console, tell)
        name = plan.config.model.name
        table = table_of(
            rows,
            title=f"{name} of {start}, fine-tuned to {data} ({how.method})",
            test_examples=int(known["test_examples"]),
            notes=tuple(known["notes"]),
        )
        write_whole(folder.table, table.markdown())
        write_whole(folder.table_json, json.dumps(table.to_json(), indent=2) + "\n")
    for line in text_table(table.cells()):
        tell(line)
    tell(table.verdict())
    for margin in table.margins():
        if margin.over != PROBE:
            tell(f"  {margin.said()}")
    tell(f"table {folder.table}")
    return table


def _asked(start: str, data: str, how: HowToFinetune, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that determines the result of every stage, as JSON values."""
    ignored = without_effect()
    kept = {field: value for field, value in sorted(given.items()) if field not in ignored}
    asked = {"start": start, "data": data, "method": how.method, "given": kept}
    if how.method != "bit":
        asked["head_rate"] = how.head_rate
    if how.method == "full":
        asked["head_share"] = how.head_share
    return json.loads(json.dumps(asked))


def _read(folder: FinetuneDirectory, asked: dict[str, Any]) -> dict[str, Any] | None:
    """Return what was chosen here before; None if nothing was.

    Raises:
        RunError: if it belongs to another command, or cannot be read.
    """
    if not folder.asked.is_file():
        if folder.path.is_dir() and (folder.path / "config.yaml").is_file():
            raise RunError(f"{folder.path} is a run directory; name another one for the stages of a fine-tuning")
        return None
    try:
        known = load_json(folder.asked.read_text(encoding="utf-8"))
        before = known["asked"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder.asked} cannot be read ({error}); use another directory") from error
    if before != asked:
        changed = [
            f"{key}: {before.get(key)} -> {asked.get(key)}"
            for key in dict.fromkeys([*before, *asked])
            if before.get(key) != asked.get(key)
        ]
        raise RunError(
            f"{folder.path} contains another fine-tuning:\n  " + "\n  ".join(changed) + "\nUse another directory (out) "
            "or the same command to resume it"
        )
    return known


def _source(
    folder: FinetuneDirectory, start: str, given: Mapping[str, Any], weights: ImportAs, tell: Say
) -> TrainedRun:
    """Load the network; a weights file is first imported, once.

    Raises:
        UsageError: if there is neither.
        DataError: if the file does not fit the network.
    """
    place = user_path(Path(start))
    if place.is_dir():
        return load_network(place)
    if folder.source.is_dir():
        return load_network(folder.source)
    if not place.is_file():
        raise UsageError(f"{start}: there is no such run directory or weights file")
    changes = {k.removeprefix("model."): v for k, v in given.items() if k.startswith("model.")}
    partial = folder.path / "source.partial"
    shutil.rmtree(partial, ignore_errors=True)
    imported = import_weights(
        place,
        ModelSpec.from_dict({"name": "", **changes}),
        partial,
        key=weights.key,
        class_names=weights.class_names,
        mean=tuple(given.get("data.mean", ())),
        std=tuple(given.get("data.std", ())),
    )
    os.replace(partial, folder.source)
    tell(f"{start} is now {folder.source}")
    for subject, text in imported.lines.items():
        tell(f"  {subject:<13}  {text}")
    return load_network(folder.source)


def _choose(
    source: TrainedRun, start: str, data: str, how: HowToFinetune, given: Mapping[str, Any], tell: Say
) -> tuple[dict[str, Any], RunData]:
    """Make all choices, print them, and return what is stored of them, and the images."""
    found = look_at(data)
    tell(describe(found))
    outlook = look_ahead(source, found, how, given, Machine.here())
    images = load_images(outlook.config)
    examples = len(images.splits.train)
    plan = make_plan(outlook, examples, how, given)
    for line in lines_of(Chosen(plan.config, plan.reasons)):
        tell(line)
    alone = head_steps(how, plan.steps)
    if alone:
        tell(f"The classifier alone for {alone:,} of {plan.steps:,} updates, the backbone and its statistics frozen.")
    for note in images.splits.notes:
        tell(note)
    test = images.splits.test
    known = {
        "asked": _asked(start, data, how, given),
        "config": config_to_dict(plan.config),
        "scratch": config_to_dict(plan.scratch),
        "steps_per_epoch": plan.steps_per_epoch,
        "reasons": plan.reasons,
        "image_shape": list(images.card.image_shape),
        "test_examples": 0 if test is None else len(test),
        "notes": list(images.splits.notes),
    }
    return known, images


def _plan_of(known: Mapping[str, Any], folder: FinetuneDirectory) -> FinetunePlan:
    where = str(folder.asked)
    config, scratch = (config_from_dict(dict(known[name]), where=where) for name in ("config", "scratch"))
    return FinetunePlan(config, scratch, int(known["steps_per_epoch"]), dict(known["reasons"]))


def _stages(
    folder: FinetuneDirectory,
    source: TrainedRun,
    plan: FinetunePlan,
    how: HowToFinetune,
    shape: tuple[int, ...],
    console: RichConsole,
    tell: Say,
) -> list[Row]:
    """Train the stages of every seed; finished stages are not trained again."""
    alone, total = head_steps(how, plan.steps), plan.steps
    done: dict[str, list[Summary]] = {}

    def train(stage: str, seed: int, config: RunConfig) -> None:
        tell(f"Seed {seed}, {_SAID[stage]}:")
        config = dataclasses.replace(config, seed=seed)
        fitted = fit(config, folder.run(seed, stage), console=console, origin=Origin(config))
        done.setdefault(stage, []).append(fitted.summary)

    begin = plan.config
    if begin.init_head == "new" and how.method != "bit":
        begin = starting_from(begin, folder.probe / NETWORK)
    for seed in range(plan.config.seed, plan.config.seed + how.seeds):
        if alone:
            train(HEAD, seed, head_config(begin, how, alone, source.model, shape))
        if alone < total:
            whole = starting_from(begin, folder.run(seed, HEAD)) if alone else begin
            train(ALL, seed, with_steps(whole, total - alone))
        if how.scratch:
            train(SCRATCH, seed, with_steps(plan.scratch, total))
    return [
        Row(
            stage,
            tuple(summary.test_accuracy or 0.0 for summary in summaries),
            _SAID[stage],
            tuple(summary.best_val_accuracy for summary in summaries),
            summaries[0].steps,
            sum(summary.seconds for summary in summaries),
        )
        for stage, summaries in done.items()
    ]


_SAID = {
    HEAD: "the classifier alone, on the frozen network",
    ALL: "the whole network",
    SCRATCH: "from scratch, with as many updates",
}
