"""The explain command: read images, explain and check them, and write a page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from resnet_jax.data.records import Subset
from resnet_jax.deploy.explain.explainer import Explained, Explainer
from resnet_jax.deploy.explain.methods import METHODS, Settings
from resnet_jax.deploy.explain.mistakes import find_mistakes, require_classes
from resnet_jax.deploy.explain.nearest import Neighbours
from resnet_jax.deploy.explain.page import summary, write_explanations
from resnet_jax.deploy.explain.perturbation import area
from resnet_jax.errors import DataError, UsageError
from resnet_jax.report.contact_sheet import Sheet, draw_sheet
from resnet_jax.runs.chosen import choose_images
from resnet_jax.runs.inference import Inference
from resnet_jax.runs.shown_examples import true_answer
from resnet_jax.runs.sizes import bring_to_size
from resnet_jax.runs.trained import TrainedRun, class_names_of

Named = tuple[str, np.ndarray, str]


class Options(Protocol):
    """The options of a command; see :class:`resnet_jax.cli.explain.ExplainOptions`."""

    @property
    def target(self) -> str | None: ...
    @property
    def head(self) -> str | None: ...
    @property
    def methods(self) -> tuple[str, ...]: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def checks(self) -> bool: ...
    @property
    def most(self) -> int: ...
    @property
    def split(self) -> str: ...
    @property
    def examples(self) -> int: ...
    @property
    def source(self) -> str | None: ...
    @property
    def nearest(self) -> int: ...
    @property
    def nearest_from(self) -> str | None: ...
    @property
    def mistakes(self) -> int: ...


def explain_run(
    trained: TrainedRun, files: Iterable[str] | None, options: Options, out: Path
) -> tuple[dict[str, Any], list[str]]:
    """Explain images and write the page; return the results, and why some images could not be read.

    Args:
        trained: the network.
        files: image files; None for examples of a split.
        options: options of the command.
        out: folder to write.

    Raises:
        UsageError: there is no image, or options do not fit the network.
        DataError: no image could be read.
        RunError: the folder cannot be written.
    """
    if files is None and not trained.was_trained_here and options.source is None:
        raise UsageError(f"{trained.path} was imported and has no images of its own: name some, or give --source")
    if options.mistakes:
        require_classes(trained)
    explainer = Explainer(
        trained, options.methods, options.settings, wanted=options.target, head=options.head, checks=options.checks
    )
    failed: list[str] = []
    if files is None:
        images, notes = _examples(trained, options)
    else:
        images, notes = _read(trained, files, options.most, failed)
    if not images:
        raise DataError(failed[0] if failed else "there is no image to explain")
    near = ()
    if options.nearest:
        neighbours = Neighbours(trained, options.nearest_from)
        near = neighbours.of(np.stack([pixels for _, pixels, _ in images]), options.nearest)
        notes.append(f"nearest of {len(neighbours):,} examples of split {neighbours.split}")
    found = list(explainer.each(images))
    sheets = {}
    if options.mistakes:
        mistakes = find_mistakes(trained, options.split, options.source, options.mistakes)
        sheets = {name: (sheet.title, _drawn(sheet, out, name)) for name, sheet in mistakes.sheets.items()}
    page = write_explanations(
        found, out, title=f"What the answers of {trained.path.name} come from", facts=_facts(trained, explainer),
        parts=explainer.parts, neighbours=near, sheets=sheets, notes=notes,
    )  # fmt: skip
    said = [*notes, *summary(found, explainer.parts), f"{len(found)} images explained in {page}"]
    return {"report": str(page), "images": [_as_json(one, explainer.parts) for one in found], "said": said}, failed


def _read(trained: TrainedRun, files: Iterable[str], most: int, failed: list[str]) -> tuple[list[Named], list[str]]:
    inference, images, notes = Inference(trained), [], []
    for file in files:
        if len(images) == most:
            notes.append(f"the first {most} images are explained, and there are more: --most takes another number")
            break
        pixels = inference.read(file, file)
        if isinstance(pixels, DataError):
            failed.append(str(pixels))
        else:
            images.append((file, pixels, ""))
    return images, [*notes, *inference.said()]


def _examples(trained: TrainedRun, options: Options) -> tuple[list[Named], list[str]]:
    chosen = choose_images(trained, options.split, options.source)
    count = min(options.examples, len(chosen.records), options.most)
    index = np.arange(count) * len(chosen.records) // max(count, 1)
    records, _ = bring_to_size(trained, Subset(chosen.records, index))
    names, labels = class_names_of(trained), np.asarray(chosen.records.labels)
    plain = trained.task.kind in ("classification", "binary", "multilabel", "regression")
    images = [
        (
            chosen.records.describe(int(at)),
            np.asarray(records[row]["image"]),
            true_answer(labels[at], names) if plain else "",
        )
        for row, at in enumerate(index.tolist())
    ]
    return images, [f"{count} example{'' if count == 1 else 's'} of {chosen.what}", *chosen.said]


def _facts(trained: TrainedRun, explainer: Explainer) -> dict[str, str]:
    settings = explainer.settings
    shape = "x".join(map(str, trained.card.image_shape))
    facts = {"network": trained.config.model.name, "run": str(trained.path), "task": trained.task.kind, "input": shape}
    facts |= {"methods": ", ".join(METHODS[name].title for name in explainer.methods), "layer": settings.layer}
    plain = trained.model.config.frontend == "none"
    facts["baseline"] = (
        "the mean of the training images" if plain else "the mean of each example, which is standardized"
    )
    if trained.model.config.frontend == "log_mel":
        facts["shown"] = "spectrograms: time to the right, low bands at the bottom"
    if "integrated_gradients" in explainer.methods:
        until = (
            f", doubled until the sum is within {settings.tolerance:.2g} of the change" if settings.tolerance else ""
        )
        facts["integrated gradients"] = f"{settings.steps} steps{until}"
    if "smooth_grad" in explainer.methods:
        facts["SmoothGrad"] = f"{settings.samples} copies, noise {settings.noise:g}"
    return facts


def _drawn(sheet: Sheet, out: Path, name: str) -> bytes:
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.png"
    draw_sheet(sheet, path)
    return path.read_bytes()


def _as_json(one: Explained, parts: tuple[str, ...]) -> dict[str, Any]:
    maps = {}
    for name, found in one.maps.items():
        maps[name] = {}
        if found.completeness is not None:
            maps[name] = {"completeness_error": _finite(found.completeness), "steps": found.steps}
        if found.deletion.size:
            maps[name] |= {
                "deletion_auc": float(area(found.deletion[None])[0]),
                "insertion_auc": float(area(found.insertion[None])[0]),
                "similarity": dict(zip(parts, found.similarity.tolist(), strict=True)),
            }
    known = {"image": one.name, "answers": [list(pair) for pair in one.answers], "target": one.target, "maps": maps}
    known["probability"] = one.probability
    if one.random[0].size:
        known["random"] = {
            name: float(area(curve[None])[0])
            for name, curve in zip(("deletion_auc", "insertion_auc"), one.random, strict=True)
        }
    return known


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
