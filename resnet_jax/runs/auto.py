"""Runs on data without a recipe: the choices are made once, and afterwards read from the run directory.

The directory is determined before the data is examined, from the name of the data and the options given. The same
command therefore gets the same directory and resumes there, whatever would be chosen today.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.data.look import Findings, findings_of, look_at, source_of
from resnet_jax.data.records import Dataset
from resnet_jax.data.source import ARRAYS
from resnet_jax.errors import DataError, UsageError
from resnet_jax.runs.arrays import Arrays, as_dataset, fingerprint
from resnet_jax.runs.config import RunConfig, config_to_yaml, without_effect
from resnet_jax.runs.defaults import Chosen, Machine, choose, with_values
from resnet_jax.runs.directory import RunDirectory, default_path
from resnet_jax.runs.recipes import parse_config
from resnet_jax.runtime import processes
from resnet_jax.tasks.facts import SAID_OF_KIND


@dataclasses.dataclass(frozen=True, eq=False)
class Beginning:
    """How a run on data begins.

    Attributes:
        config: the configuration.
        run_dir: the run directory.
        lines: lines to print about it.
        dataset: the data, if it is in memory.
    """

    config: RunConfig
    run_dir: Path
    lines: tuple[str, ...]
    dataset: Dataset | None = None


def begin(
    data: str | Path | Arrays, run_dir: str | Path | None = None, given: Mapping[str, Any] | None = None
) -> Beginning:
    """Examine data and choose a configuration; if the run directory exists, use its configuration.

    Args:
        data: a path or a source, as accepted by :func:`resnet_jax.data.look.look_at`, or arrays.
        run_dir: the run directory (default: ``runs/NAME-HASH``, from the data and the given options).
        given: field, such as ``train.length`` -> value, as in YAML; overrides the choices.

    Raises:
        DataError: if the data does not exist, or is not a data set.
        UsageError: for a value that no run can have.
    """
    given = dict(given or {})
    dataset = None if isinstance(data, (str, Path)) else as_dataset(data)
    name = f"{ARRAYS}-{fingerprint(dataset)}" if dataset is not None else _plain(str(data))
    run = RunDirectory(Path(run_dir) if run_dir is not None else auto_path(name, given))
    if run.config.is_file():
        held = run.read_config()
        source = _source(name, held) if dataset is None else ARRAYS
        line = f"{run.path} contains a run: its config.yaml is used, and the data is not examined again."
        return Beginning(with_values(held, {"data.source": source, **given}), run.path, (line,), dataset)
    found = look_at(name) if dataset is None else findings_of(dataset, ARRAYS)
    chosen = choose(found, Machine.here(), given)
    config = main_choice(chosen.config)
    return Beginning(config, run.path, (describe(found), *lines_of(chosen)), dataset)


def main_choice(config: RunConfig) -> RunConfig:
    """Return what the main process has chosen for the data, since another machine might choose differently."""
    if processes.count() == 1:
        return config
    return parse_config(processes.from_main(config_to_yaml(config)), where="the choice of process 0")


def begin_fit(
    config: RunConfig | str | Path | Arrays, run_dir: str | Path | None, data: str | Path | Arrays | None
) -> Beginning:
    """Return how :func:`resnet_jax.runs.fit.fit` begins; its arguments are described there.

    Raises:
        DataError: if the data does not exist, or is not a data set.
        UsageError: if data is given twice.
    """
    if not isinstance(config, RunConfig):
        if data is not None:
            raise UsageError(f"write fit(data), or fit(config, data=...): {type(config).__name__} is no RunConfig")
        return begin(config, run_dir)
    config, dataset = (config, None) if data is None else with_data(config, data)
    path = default_path(config) if run_dir is None else Path(run_dir)
    if dataset is not None and run_dir is None:
        path = path.with_name(f"{path.name}-{fingerprint(dataset)}")
    return Beginning(config, path, (), dataset)


def _plain(name: str) -> str:
    """Return a path in normalized form; a source unchanged."""
    return name if ":" in name and not Path(name).exists() else str(Path(name))


def _source(name: str, held: RunConfig) -> str:
    """Return the data written as a source; if it is gone, the name the run knows it by."""
    try:
        return source_of(name)
    except DataError:
        return held.data.source


def auto_path(name: str, given: Mapping[str, Any]) -> Path:
    """Return ``runs/NAME-HASH``: the same for the same name of the data and the same given values.

    >>> auto_path("photos/", {}) == auto_path("./photos", {"train.log_every": "1 steps"})
    True
    >>> auto_path("photos", {"seed": 1}) == auto_path("photos", {})
    False
    """
    ignored = without_effect()
    kept = {field: value for field, value in sorted(given.items()) if field not in ignored}
    text = json.dumps([_plain(name), kept], sort_keys=True)
    stem = re.sub(r"[^\w.-]+", "-", Path(_plain(name)).stem.rpartition(":")[2]).strip("-.") or "data"
    return Path("runs") / f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def describe(found: Findings) -> str:
    """Describe in one line what was found.

    >>> from resnet_jax.data.look import look_at
    >>> describe(look_at("digits"))
    'Examined digits: 1,797 images of 8x8, grey, uint8; 10 classes of 174 to 183.'
    """
    numbers = ", ".join(f"{n:,}{'' if split == 'all' else f' {split}'}" for split, n in found.examples.items())
    least, _, greatest = found.side
    size = "x".join(map(str, found.shapes[0][:-1])) if found.one_size else f"sides {least} to {greatest}"
    grey = found.grey and found.meaning == "image"
    colours = "grey" if grey else f"{found.channels} channel{'s' if found.channels > 1 else ''}"
    match found.label_kind:
        case "class":
            labels = f"{len(found.names):,} classes of {min(found.counts):,} to {max(found.counts):,}"
        case "multi-label":
            labels = f"{len(found.names):,} labels given {min(found.counts):,} to {max(found.counts):,} times"
        case "value":
            labels = f"values: {', '.join(found.names[:5])}"
        case "segmentation" | "boxes":
            labels = f"{SAID_OF_KIND[found.label_kind]}, of {len(found.names):,}"
    return f"Examined {found.source}: {numbers} {found.meaning}s of {size}, {colours}, {found.dtype}; {labels}."


def lines_of(chosen: Chosen) -> tuple[str, ...]:
    """Return a line for each choice: field, value, reason."""
    rows = [(field, _text(chosen.config, field), reason) for field, reason in chosen.reasons.items()]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    return tuple(f"  {field:<{widths[0]}}  {value:<{widths[1]}}  {reason}" for field, value, reason in rows)


def _text(config: RunConfig, field: str) -> str:
    value: Any = config
    for part in field.split("."):
        value = value.to_dict().get(part) if hasattr(value, "to_dict") else getattr(value, part)
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value}" if value is not None else "as stored" if field == "data.image_size" else "none"


def with_data(config: RunConfig, data: str | Path | Arrays) -> tuple[RunConfig, Dataset | None]:
    """Return a configuration for these data, and the data if it is in memory.

    Raises:
        DataError: if there is no such data.
        UsageError: for ``data.moved_to`` with data in memory.
    """
    if isinstance(data, (str, Path)):
        return with_values(config, {"data.source": source_of(str(data))}), None
    if config.data.moved_to is not None:
        raise UsageError("data.moved_to says where files lie now, and these are arrays: leave it out")
    dataset = as_dataset(data, channels=config.model.changes.get("in_channels"))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, source=ARRAYS)), dataset
