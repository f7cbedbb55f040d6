"""The first stage of fine-tuning: the network's accuracy as it is, and a linear probe on its frozen features."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.data.classes import are_numbers, match_classes
from resnet_jax.errors import RunError, UsageError
from resnet_jax.models.digest import params_digest
from resnet_jax.models.paths import HEAD_BIAS, HEAD_KERNEL
from resnet_jax.report.plots import plot_confusion
from resnet_jax.report.views import attempt
from resnet_jax.runs.build import build_model
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import RunData, load_images
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.finetune import how_to_fit
from resnet_jax.runs.finetune_table import BEFORE, PROBE, Row, row_of_json
from resnet_jax.runs.foreign import write_network
from resnet_jax.runs.linear_probe import Features, Probe, backbone_variables, classifier_of, features_of, fit_probe
from resnet_jax.runs.trained import TrainedRun, class_names_of
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.plain_json import load_json
from resnet_jax.tasks.confusion import Confusion
from resnet_jax.training.stuck import Chance

Say = Callable[[str], None]

NETWORK = "network"
"""The run directory of the frozen network with the probe as its classifier."""


def probe_rows(folder: Path, source: TrainedRun, config: RunConfig, images: RunData | None, tell: Say) -> list[Row]:
    """Return the table rows of the initial network and of the linear probe; computed once and stored in probe.json.

    Args:
        folder: where to store them.
        source: the network.
        config: configuration of the run whose images are used.
        images: images of that run; None to load them when needed.
        tell: called with a line for each row.

    Raises:
        UsageError: if the network cannot take the images.
        RunError: if the stored result belongs to other weights.
    """
    path = folder / "probe.json"
    digest = params_digest(source.variables["params"], source.variables.get("batch_stats", {}))
    if path.is_file():
        stored = load_json(path.read_text(encoding="utf-8"))
        if stored["params_digest"] != digest:
            raise RunError(
                f"the weights in {source.path} are not those that {folder.parent} began with (see {path}); use another "
                "directory"
            )
        return [row_of_json(BEFORE, stored["before"]), row_of_json(PROBE, stored["probe"])]
    began = time.perf_counter()
    images = load_images(config) if images is None else images
    card, test = images.card, images.splits.test
    assert test is not None  # load_images refuses data without
    model = build_model(config, card)
    try:
        variables = backbone_variables(source.variables, model, card.image_shape, **how_to_fit(config))
    except UsageError as error:
        raise UsageError(
            f"{source.path} ({source.config.model.name}) cannot start {config.model.name}: {error}"
        ) from error

    def features(records: Any) -> Features:
        return features_of(config, model, card, variables, records, images.unreadable_of(records))

    train, tested = features(images.splits.train), features(test)
    val = None if images.splits.val is None else features(images.splits.val)
    found = fit_probe(train, val, len(card.class_names), balanced=config.task.class_weights == "balanced")
    predicted = found.predict(tested.values)
    right = predicted == tested.labels
    before = _before(source, card, tested)
    on = {"validation": "the validation images", "folds": "folds of the training images", "nothing": "nothing"}
    chosen = f"C {found.strength:g} by {on[found.chosen_on]}"
    what = f"logistic regression on {train.values.shape[1]:,} frozen features, {chosen}"
    what += "" if found.converged else "; its fit did not converge"
    stored = {
        "params_digest": digest,
        "before": before,
        "probe": {
            "accuracy": float(right.mean()),
            "correct": int(right.sum()),
            "what": what,
            "seconds": time.perf_counter() - began,
            "chosen_on": found.chosen_on,
            "strength": found.strength,
            "tried": [list(pair) for pair in found.tried],
        },
    }
    folder.mkdir(exist_ok=True)
    _keep(folder, config, card, variables, found)
    _draw(folder, card, tested.labels, predicted, tell)
    write_whole(path, json.dumps(stored, indent=2) + "\n")
    tell(f"before        {before['accuracy']:.2%} on the test images: {before['what']}")
    tell(f"linear probe  {right.mean():.2%}: {what}")
    return [row_of_json(BEFORE, before), row_of_json(PROBE, stored["probe"])]


def _keep(folder: Path, config: RunConfig, card: DatasetInfo, variables: dict[str, Any], probe: Probe) -> None:
    """Write the frozen network with the probe as its classifier, as a run directory."""
    flat: dict[Any, Any] = flatten_dict(variables["params"], sep="/")
    heads = {HEAD_KERNEL: probe.kernel, HEAD_BIAS: probe.bias}
    flat |= {path: array.astype(flat[path].dtype) for path, array in heads.items()}
    plain = RunConfig(recipe="linear-probe", model=config.model, data=config.data, task=config.task)
    partial = folder / f"{NETWORK}.partial"
    for old in (partial, folder / NETWORK):
        shutil.rmtree(old, ignore_errors=True)
    card = dataclasses.replace(card, examples={}, labels="", label_counts=(), members="")
    params = unflatten_dict(flat, sep="/")
    write_network(partial, plain, card, {**variables, "params": params}, step=0, origin={"classifier": "linear probe"})
    os.replace(partial, folder / NETWORK)


def _draw(folder: Path, card: DatasetInfo, labels: np.ndarray, predicted: np.ndarray, tell: Say) -> None:
    """Store and draw the probe's confusion matrix."""
    names = card.class_names
    counts = Confusion.of_rows(labels, predicted, len(names))
    arrays = {name: getattr(counts, name) for name in ("true", "predicted", "counts")}
    np.savez_compressed(folder / "confusion.npz", classes=np.int64(len(names)), **arrays)
    right = int((labels == predicted).sum())
    title = f"Confusion matrix of a linear probe; {right:,} of {len(labels):,} test examples correct"
    picture = folder / "confusion.png"
    attempt(picture.name, lambda: plot_confusion(counts, names, picture, title=title), tell)


def _before(source: TrainedRun, card: DatasetInfo, test: Features) -> dict[str, Any]:
    """Return the network's accuracy as it is, if the classes are its own; otherwise the chance level."""
    head = classifier_of(source.variables)
    try:
        ours = class_names_of(source)
        if head is None or (are_numbers(ours) and are_numbers(card.class_names) and not source.was_trained_here):
            raise UsageError("its classes have no names")
        present = np.unique(test.labels).tolist()
        matching = match_classes(card.class_names, ours, present=present)
    except UsageError:
        chance = Chance.of(test.labels).majority
        return {"accuracy": chance, "kind": "chance", "what": "the network has other classes: always the most frequent"}
    right = np.argmax(test.values @ head[0] + head[1], axis=-1) == matching.labels(test.labels)
    said = "; ".join(("the network as it is, whose classes match", *matching.said))
    return {"accuracy": float(right.mean()), "correct": int(right.sum()), "kind": "zero-shot", "what": said}
