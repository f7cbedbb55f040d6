"""The figures of a model card: measured once, for the text and for the page."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.deploy.artefact import load_artefact
from resnet_jax.deploy.card.intervals import bootstrap, wilson
from resnet_jax.deploy.card.temperature import Calibration, calibration, fit_temperature, log_softmax
from resnet_jax.errors import ResNetJaxError, UsageError
from resnet_jax.models.count import Counts, count
from resnet_jax.models.digest import params_digest
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.evaluate import RunEvaluation, evaluate_run
from resnet_jax.runs.trained import TrainedRun, load_network, require_normalization
from resnet_jax.runtime.cache import processor
from resnet_jax.runtime.paths import source_name
from resnet_jax.tasks.classification import Classification

EXPORTED = (".onnx", ".jaxexport", ".jax")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A metric with its interval at 95 %, where there is one.

    Attributes:
        name: as ``eval`` calls it.
        value: over the images.
        low: of the interval; None where none is given.
        high: the same.
        how: Wilson, bootstrap, or "".
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    how: str = ""


@dataclasses.dataclass(frozen=True)
class ClassFigure:
    """A class: its examples, and what share of them, and of what is called so, is right."""

    name: str
    examples: int
    recall: float
    recall_interval: tuple[float, float]
    precision: float
    precision_interval: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Form:
    """A form that the network exists in: its size, and how long one image and sixteen take here."""

    name: str
    megabytes: float
    one: float | None
    sixteen: float | None
    said: str = ""


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What a card says; see the fields."""

    trained: TrainedRun
    counts: Counts
    digest: str
    result: RunEvaluation
    figures: tuple[Figure, ...]
    classes: tuple[ClassFigure, ...]
    before: Calibration | None
    after: Calibration | None
    temperature: float | None
    fitted_on: str
    forms: tuple[Form, ...]
    machine: str
    licence: str
    notes: tuple[str, ...]

    @property
    def evaluated(self) -> str:
        """Return the images that the figures are of, in words, without the folders they lie in."""
        return self.result.what.replace(self.result.place, source_name(self.result.place))

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        calibrated = {"temperature": self.temperature, "fitted_on": self.fitted_on}
        for name, found in (("before", self.before), ("after", self.after)):
            calibrated[name] = None if found is None else {"ece": found.ece, "loss": found.loss}
        return {
            "model": self.trained.config.model.name,
            "digest": self.digest,
            "split": self.evaluated,
            "examples": self.result.examples,
            "metrics": [dataclasses.asdict(figure) for figure in self.figures],
            "classes": [dataclasses.asdict(each) for each in self.classes],
            "calibration": calibrated,
            "forms": [dataclasses.asdict(form) for form in self.forms],
        }


def measure(
    run: Path, *, split: str = "test", source: str | None = None, val_source: str | None = None, licence: str = ""
) -> CardFacts:
    """Evaluate a run and measure what a card says of it.

    Args:
        run: a run directory.
        split: that the metrics are of.
        source: images in place of the run's own, as ``eval --data.source``.
        val_source: images to fit the temperature on, where the run has no validation images of its own.
        licence: of the weights, as their owner states it.

    Raises:
        UsageError: not a run directory, or no such split.
        DataError: the images are not there.
    """
    trained = load_network(run)
    require_normalization(trained)
    result = evaluate_run(trained, split, source=source, logits=True)
    before = after = temperature = None
    said = "not fitted: only classifiers with a softmax have one"
    if _has_softmax(trained):
        logits, labels = _answers(result)
        before = calibration(logits, labels)
        temperature, said = _temperature(trained, split, val_source)
        after = None if temperature is None else calibration(logits, labels, temperature)
    directory = RunDirectory.existing(run)
    notes = directory.notes.read_text("utf-8").splitlines() if directory.notes.is_file() else []
    statistics = trained.variables.get("batch_stats", {})
    return CardFacts(
        trained=trained,
        counts=count(trained.model, trained.card.image_shape),
        digest=params_digest(trained.variables["params"], statistics),
        result=result,
        figures=_figures(trained, result),
        classes=_classes(trained, result),
        before=before,
        after=after,
        temperature=temperature,
        fitted_on=said,
        forms=_forms(trained, directory.path),
        machine=_machine(),
        licence=licence,
        notes=(*result.said, *notes),
    )


def _machine() -> str:
    """Return the name of the processor, and the widest vectors it has."""
    lines = dict(line.replace("\t", "").split(": ", 1) for line in processor().splitlines() if ": " in line)
    flags = lines.get("flags", "").split()
    vectors = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "")
    return ", ".join(part for part in (lines.get("model name", processor().splitlines()[0]), vectors) if part)


def _has_softmax(trained: TrainedRun) -> bool:
    return isinstance(trained.task, Classification) and (trained.config.task.loss or "cross_entropy") not in (
        "bce",
        "mse",
    )


def _answers(result: RunEvaluation) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (N, K) and labels (N,) of the images that could be read."""
    logits, labels = np.asarray(result.logits), np.asarray(result.rows["label"])
    if len(logits) != len(labels):  # those that were skipped have rows of NaN
        logits = logits[np.isfinite(logits).all(axis=1)]
    return logits, labels


def _temperature(trained: TrainedRun, split: str, val_source: str | None) -> tuple[float | None, str]:
    own = trained.card.examples.get("val", 0)
    if val_source is None and (not own or split == "val"):
        return None, "not fitted: there are no validation images but those that the figures are of"
    try:
        found = evaluate_run(trained, "all" if val_source else "val", source=val_source, logits=True)
    except ResNetJaxError as error:
        return None, f"not fitted: {error}"
    return fit_temperature(*_answers(found)), f"{found.examples:,} images, {found.what}"


def _figures(trained: TrainedRun, result: RunEvaluation) -> tuple[Figure, ...]:
    """Return every metric of the evaluation: shares of examples by Wilson, those of rows by bootstrap."""
    found = []
    for name, value in result.metrics.items():
        counted = {"accuracy": "correct", "top5": "top5"}.get(name, "")
        if isinstance(trained.task, Classification) and counted in result.sums:
            found.append(Figure(name, value, *wilson(int(result.sums[counted]), result.examples), "Wilson"))
        elif name == "macro_f1" and "prediction" in result.rows:
            found.append(Figure(name, value, *_bootstrap_f1(result), "bootstrap, 1,000 draws"))
        else:
            found.append(Figure(name, value))
    if _has_softmax(trained):
        logits, labels = _answers(result)
        losses = -log_softmax(logits)[np.arange(len(labels)), labels]
        interval = bootstrap(lambda index: float(losses[index].mean()), len(losses))
        found.append(Figure("cross_entropy", float(losses.mean()), *interval, "bootstrap, 1,000 draws"))
    return tuple(found)


def _bootstrap_f1(result: RunEvaluation) -> tuple[float, float]:
    labels, answers = (np.asarray(result.rows[name]) for name in ("label", "prediction"))
    classes = int(max(labels.max(), answers.max())) + 1

    def f1(index: np.ndarray) -> float:
        right = np.bincount(labels[index][labels[index] == answers[index]], minlength=classes)
        both = np.bincount(labels[index], minlength=classes) + np.bincount(answers[index], minlength=classes)
        return float((2 * right[both > 0] / both[both > 0]).mean())

    return bootstrap(f1, len(labels))


def _classes(trained: TrainedRun, result: RunEvaluation) -> tuple[ClassFigure, ...]:
    if not isinstance(trained.task, Classification) or "prediction" not in result.rows:
        return ()
    labels, answers = (np.asarray(result.rows[name]) for name in ("label", "prediction"))
    names = trained.output_names or trained.card.class_names
    found = []
    for place, name in enumerate(names):
        of, called = labels == place, answers == place
        right, examples, calls = int((of & called).sum()), int(of.sum()), int(called.sum())
        if not examples:
            continue
        recall, precision = right / examples, right / calls if calls else float("nan")
        intervals = wilson(right, examples), wilson(right, calls)
        found.append(ClassFigure(name, examples, recall, intervals[0], precision, intervals[1]))
    return tuple(found)


def _forms(trained: TrainedRun, folder: Path) -> tuple[Form, ...]:
    """Return the network here, and every exported file in its directory, with its size and time."""
    from resnet_jax.runs.inference import Inference

    parameters = (count(trained.model, trained.card.image_shape).params * 4) / 1e6
    found = []
    try:
        inference = Inference(trained, (1, 16))
        found.append(Form("this package (float32)", parameters, *_times(inference.outputs, trained)))
    except UsageError as error:
        found.append(Form("this package (float32)", parameters, None, None, str(error)))
    for path in sorted(path for path in folder.iterdir() if path.suffix in EXPORTED):
        size = path.stat().st_size / 1e6
        try:
            artefact = load_artefact(path)
            found.append(Form(path.name, size, *_times(artefact.outputs_of_pixels, trained), artefact.runtime))
        except ResNetJaxError as error:
            found.append(Form(path.name, size, None, None, str(error)))
    return tuple(found)


def _times(outputs: Any, trained: TrainedRun, repeats: int = 5) -> tuple[float, float]:
    """Return milliseconds of one and of sixteen images: the median of a few, after one that is not counted."""
    shape, dtype = trained.card.image_shape, trained.card.image_dtype
    found = []
    for batch in (1, 16):
        images = np.zeros((batch, *shape), dtype)
        outputs(images)
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            outputs(images)
            times.append(time.perf_counter() - begun)
        found.append(1000 * float(np.median(times)))
    return found[0], found[1]
