"""Write a run as a folder for a model hub and read it back: safetensors weights, recipe, cards and checksums.

=====================  ================================================================================
``model.safetensors``  the weights used for evaluation, under our names, with the metadata of every export
``config.yaml``        the recipe; data sources without the folders of the machine it ran on
``data.json``          classes, size and normalization of the images
``README.md`` ...      the model card, if the run's images can be evaluated
``SHA256SUMS``         of all of these, as ``sha256sum --check`` reads it
=====================  ================================================================================

Only numbers and plain text are loaded. A file that does not match its checksum is rejected.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.deploy.card.facts import measure
from resnet_jax.deploy.card.write import write_card
from resnet_jax.deploy.metadata import Metadata, preprocessing_of
from resnet_jax.deploy.safetensors_file import write_weights
from resnet_jax.errors import DataError, RunError, UsageError
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.layout import stack, unstack
from resnet_jax.runs.config import RunConfig, config_to_yaml
from resnet_jax.runs.directory import RunDirectory, parse_card
from resnet_jax.runs.foreign import write_network
from resnet_jax.runs.network import build_network
from resnet_jax.runs.recipes import parse_config
from resnet_jax.runs.trained import load_network
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.paths import source_name, user_path
from resnet_jax.runtime.plain_files import read_file, read_text
from resnet_jax.tasks.config import DistillConfig
from resnet_jax.training.early_stopping import EarlyStopping
from resnet_jax.training.options import Averaging
from resnet_jax.weights.files import read_weights

WEIGHTS, CONFIG, DATA, SUMS = "model.safetensors", "config.yaml", "data.json", "SHA256SUMS"
Say = Callable[[str], None]


def push_run(
    run_dir: str | Path, folder: str | Path, *, licence: str, card: bool = True, say: Say = lambda _: None
) -> Path:
    """Write the network of a run as a folder for a model hub, completely or not at all, and return the folder.

    Args:
        run_dir: a trained or imported run.
        folder: a new or empty directory.
        licence: license of the weights, as the hub spells it.
        card: whether to evaluate the run for a model card.
        say: called with progress messages.

    Raises:
        UsageError: the folder is in use, or the network takes two inputs.
        DataError: the run's images cannot be read for its card.
        RunError: the folder cannot be written.
    """
    folder = user_path(Path(folder))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is in use: name a new directory")
    trained = load_network(run_dir)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".push-", dir=folder.parent))
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        metadata = Metadata.of(trained, preprocessing_of(trained, takes="normalized", layout="channels_last"), licence)
        say(f"{write_weights(trained, metadata, building / WEIGHTS)} tensors")
        write_whole(building / CONFIG, config_to_yaml(_without_machine(trained.config)))
        write_whole(building / DATA, json.dumps(dataclasses.asdict(trained.card), indent=2) + "\n")
        if card:
            write_card(measure(trained.path, licence=licence), building)
            say("a model card, of the test split")
        files = sorted(path for path in building.rglob("*") if path.is_file())
        sums = [f"{_digest(path)}  {path.relative_to(building)}\n" for path in files]
        write_whole(building / SUMS, "".join(sums))
        building.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        building.rename(folder)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def pull_run(folder: str | Path, out: str | Path) -> RunDirectory:
    """Create a run directory from a folder that :func:`push_run` wrote; its variables are identical bit for bit.

    Args:
        folder: the folder, downloaded completely from a hub.
        out: a new or empty directory.

    Raises:
        UsageError: ``out`` is in use.
        DataError: a file is missing, fails its checksum, or does not fit the others.
        RunError: ``out`` cannot be written.
    """
    folder, out = user_path(Path(folder)), user_path(Path(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is in use: name a new directory")
    _require_whole(folder)
    config = parse_config(read_text(folder / CONFIG), where=str(folder / CONFIG))
    card = parse_card(read_text(folder / DATA))
    model: Any = build_network(config, card)
    wanted: Any = flatten_dict(unstack(abstract_variables(model, card.image_shape)), sep="/")
    file = read_weights(folder / WEIGHTS)
    found = {name: file.tensors.get(name) for name in wanted}
    for name, like in wanted.items():
        tensor = found[name]
        if tensor is None or tensor.shape != like.shape or tensor.dtype != like.dtype:
            has = "nothing" if tensor is None else f"{tensor.dtype} {tensor.shape}"
            raise DataError(f"{folder / WEIGHTS} has {has} of {name}, and the network of {CONFIG} {like}")
    if strange := sorted(set(file.tensors) - set(wanted)):
        raise DataError(f"{folder / WEIGHTS} has {strange[0]}, which the network of {CONFIG} does not have")
    variables = stack(
        unflatten_dict({tuple(name.split("/")): leaf for name, leaf in found.items()}), model.config.execution
    )
    step = file.metadata.get("step", "0")
    return write_network(
        out, config, card, jax.tree.map(np.asarray, variables),
        step=int(step) if step.isdecimal() else 0, origin={"pulled_from": str(folder)},
    )  # fmt: skip


def _without_machine(config: RunConfig) -> RunConfig:
    """Return the recipe for others: without folders of this machine, with one set of weights and no initial weights."""
    plain = dataclasses.replace(config.data, source=source_name(config.data.source), moved_to=None)
    train = dataclasses.replace(config.train, ema=Averaging(), select="last", early_stopping=EarlyStopping())
    alone: Any = {
        "init_from": None,
        "init_head": "exact",
        "init_stem": "exact",
        "init_bands": (),
        "init_inflate": "none",
    }
    task = dataclasses.replace(config.task, distill=DistillConfig())
    return dataclasses.replace(config, data=plain, train=train, task=task, **alone)


def _require_whole(folder: Path) -> None:
    try:
        lines = read_text(folder / SUMS).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is not a folder that weights push wrote: {SUMS} cannot be read ({error})") from None
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in (WEIGHTS, CONFIG, DATA):
        try:
            digest = _digest(folder / name)
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read: {error.strerror or error}") from None
        if digest != sums.get(name):
            raise DataError(
                f"{folder / name} is not what was pushed: its SHA-256 is {digest}, {SUMS} has {sums.get(name)}"
            )


def _digest(path: Path) -> str:
    return hashlib.sha256(read_file(path)).hexdigest()
