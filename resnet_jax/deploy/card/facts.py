"""The contents of a model card, measured once for the text and for the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.deploy.card.depth import depth_json, measure_depth
from resnet_jax.deploy.card.figures import ClassFigure, Figure, answers, classes_of, figures_of, has_softmax
from resnet_jax.deploy.card.forms import Form, forms_of, machine
from resnet_jax.deploy.card.temperature import Calibration, calibration, fit_temperature
from resnet_jax.depth.result import DepthProfile
from resnet_jax.errors import ResNetJaxError
from resnet_jax.models.count import Counts, count
from resnet_jax.models.digest import params_digest
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.evaluate import RunEvaluation, evaluate_run
from resnet_jax.runs.trained import TrainedRun, load_run, require_normalization
from resnet_jax.runtime.paths import source_name


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """The contents of a card; see the fields."""

    trained: TrainedRun
    counts: Counts
    digest: str
    result: RunEvaluation
    figures: tuple[Figure, ...]
    classes: tuple[ClassFigure, ...]
    by_class: Mapping[str, tuple[Figure, ...]]
    before: Calibration | None
    after: Calibration | None
    temperature: float | None
    fitted_on: str
    forms: tuple[Form, ...]
    depth: DepthProfile | str | None
    machine: str
    licence: str
    notes: tuple[str, ...]

    @property
    def evaluated(self) -> str:
        """Describe the images behind the figures, without the folders they are in."""
        return _without_folders(self.result)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        calibrated = {"temperature": self.temperature, "fitted_on": self.fitted_on}
        for name, found in (("before", self.before), ("after", self.after)):
            calibrated[name] = None if found is None else {"ece": found.ece, "loss": found.loss}
        return _finite(
            {
                "model": self.trained.config.model.name,
                "task": self.trained.task.kind,
                "digest": self.digest,
                "split": self.evaluated,
                "examples": self.result.examples,
                "metrics": [dataclasses.asdict(figure) for figure in self.figures],
                "classes": [dataclasses.asdict(each) for each in self.classes],
                "by_class": {name: [dataclasses.asdict(each) for each in row] for name, row in self.by_class.items()},
                "calibration": calibrated,
                "forms": [dataclasses.asdict(form) for form in self.forms],
                "depth": depth_json(self.depth),
            }
        )


def _without_folders(result: RunEvaluation) -> str:
    """Describe which images were evaluated, without the folders they are in."""
    return result.what.replace(result.place, source_name(result.place))


def _here(line: str, trained: TrainedRun, result: RunEvaluation) -> str:
    """Return a note without the folders of this machine."""
    for place in (result.place, trained.config.data.source):
        line = line.replace(place, source_name(place)) if ":" in place else line
    return line.replace(str(trained.path), trained.path.resolve().name)


def _finite(value: Any) -> Any:
    """Return plain values with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def measure(
    run: Path,
    *,
    split: str = "test",
    source: str | None = None,
    val_source: str | None = None,
    licence: str = "",
    forms: Sequence[Path] = (),
    depth: bool = True,
) -> CardFacts:
    """Evaluate a run and measure the contents of its card.

    Args:
        run: a run directory.
        split: the split for the metrics.
        source: images instead of the run's own, as ``eval --data.source``.
        val_source: images to fit the temperature on, if the run has no validation images of its own.
        licence: license of the weights, as stated by their owner.
        forms: exported files to measure in addition to those in the run directory.
        depth: whether to measure signals and gradients through depth.

    Raises:
        UsageError: this is not a run directory, or there is no such split.
        DataError: the images are missing.
    """
    trained = load_run(run)
    require_normalization(trained)
    softmax = has_softmax(trained)
    result = evaluate_run(trained, split, source=source, logits=softmax, summands=True)
    before = after = temperature = None
    said = "not fitted: only classifiers with a softmax have one"
    if softmax:
        logits, labels = answers(result)
        before = calibration(logits, labels)
        temperature, said = _temperature(trained, split, val_source)
        after = None if temperature is None else calibration(logits, labels, temperature)
    directory = RunDirectory.existing(run)
    notes = directory.notes.read_text("utf-8").splitlines() if directory.notes.is_file() else []
    statistics = trained.variables.get("batch_stats", {})
    found = figures_of(trained, result)
    return CardFacts(
        trained=trained,
        counts=count(trained.model, trained.card.image_shape),
        digest=params_digest(trained.variables["params"], statistics),
        result=result,
        figures=found.metrics,
        classes=classes_of(trained, result),
        by_class=found.by_class,
        before=before,
        after=after,
        temperature=temperature,
        fitted_on=said,
        forms=forms_of(trained, directory.path, forms),
        depth=measure_depth(trained, source) if depth else None,
        machine=machine(),
        licence=licence,
        notes=tuple(dict.fromkeys(_here(line, trained, result) for line in (*result.said, *result.notes, *notes))),
    )


def _temperature(trained: TrainedRun, split: str, val_source: str | None) -> tuple[float | None, str]:
    own = trained.card.examples.get("val", 0)
    if val_source is None and (not own or split == "val"):
        return None, "not fitted: the only validation images are those that the figures are measured on"
    try:
        found = evaluate_run(trained, "all" if val_source else "val", source=val_source, logits=True)
    except ResNetJaxError as error:
        return None, f"not fitted: {error}"
    logits, labels = answers(found)
    if (logits.argmax(axis=1) == labels).all():
        return None, (
            f"not fitted: the network is right about all {found.examples:,} validation examples, so no finite "
            "confidence fits them best"
        )
    return fit_temperature(logits, labels), f"{found.examples:,} examples, {_without_folders(found)}"
