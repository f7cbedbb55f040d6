"""A model card as Markdown with the hub's front matter, and as one HTML page."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from resnet_jax.deploy.card.facts import CardFacts
from resnet_jax.deploy.card.temperature import Calibration
from resnet_jax.report.canvas import BLUE, VERMILION, new_figure
from resnet_jax.report.depth_axes import INK, DepthFigure, percent_axis, plain
from resnet_jax.report.depth_page import Page, Section, Table
from resnet_jax.runtime.paths import source_name
from resnet_jax.tasks.task import SHARES

LIMITS = (
    "The figures are of the images named above and of nothing else: other cameras, crops, compressions and classes "
    "give other figures.",
    "An image of no class that the network knows still gets one, often with a high probability.",
    "Intervals are of the choice of test images; they do not say how much another seed of training would differ.",
)
WORST = 5


def said(name: str, value: float) -> str:
    """Return a metric as a person reads it."""
    if not math.isfinite(value):
        return "none"
    return f"{100 * value:.2f} %" if name in SHARES or name in ("accuracy", "top5", "ece") else f"{value:.4f}"


def markdown(card: CardFacts, page: str | None = "report.html") -> str:
    """Return the card as Markdown."""
    run, config, data = card.trained, card.trained.config, card.trained.card
    parts = [_front_matter(card), f"# {config.model.name}\n"]
    parts.append(
        f"A residual network in JAX, {card.counts.params:,} parameters, {card.counts.macs:,} multiply-additions an "
        f"image of {'x'.join(map(str, data.image_shape))}. Task: {run.task.kind}.\n"
    )
    parts.append(_rows(("what", "value"), list(facts(card).items())))
    parts.append("## Data\n")
    parts.append(_rows(("what", "value"), list(_data(card).items())))
    parts.append("## Recipe\n")
    parts.append(_rows(("option", "value"), list(_recipe(card).items())))
    parts.append(f"## Figures: {_cell(card.evaluated)}\n")
    parts.append(
        _rows(
            ("metric", "value", "95 % interval", "how"),
            [
                (
                    figure.name,
                    said(figure.name, figure.value),
                    _interval(figure.name, figure.low, figure.high),
                    figure.how,
                )
                for figure in card.figures
            ],
        )
    )
    if card.classes:
        parts.append("Of every class (Wilson's intervals):\n")
        head = ("class", "images", "recall", "95 % interval", "precision", "95 % interval")
        table = []
        for each in card.classes:
            recall = said("accuracy", each.recall), _interval("accuracy", *each.recall_interval)
            precision = said("accuracy", each.precision), _interval("accuracy", *each.precision_interval)
            table.append((each.name, f"{each.examples:,}", *recall, *precision))
        parts.append(_rows(head, table))
    parts.append("## Calibration\n")
    parts.append("\n".join(_calibration(card)) + "\n")
    parts.append("## Speed and size\n")
    parts.append(
        f"On {card.machine or 'this machine'}, median of five, milliseconds; the machine may have been busy.\n"
    )
    head = ("form", "MB", "1 image", "16 images", "note")
    forms = [(f.name, f"{f.megabytes:.2f}", _time(f.one), _time(f.sixteen), f.said) for f in card.forms]
    parts.append(_rows(head, forms))
    parts.append("## Known limits\n")
    parts.append("\n".join(f"- {line}" for line in limits(card)) + "\n")
    parts.append(f"## Licence\n\n{_cell(card.licence) or 'Not stated.'}\n")
    parts.append("## How to load it\n")
    parts.append(f"```python\n{loading()}```\n")
    if page:
        parts.append(f"The same with pictures: [{page}]({page}).\n")
    return "\n".join(parts)


def loading() -> str:
    """Return how to load a run in Python."""
    return (
        "from resnet_jax import load_run, predict_images\n\n"
        'trained = load_run("RUN_DIR")\n'
        'for found in predict_images(trained, ["image.jpg"], top=5):\n'
        "    print(found.image, found.classes, found.probabilities)\n\n"
        "logits = trained.model.apply(trained.variables, images, train=False)   # images normalized, (N, H, W, C)\n"
    )


def facts(card: CardFacts) -> dict[str, str]:
    """Return what the network is."""
    return {
        "network": card.trained.config.model.name,
        "changed in it": ", ".join(f"{k} {v}" for k, v in card.trained.config.model.changes.items()) or "nothing",
        "parameters": f"{card.counts.params:,}",
        "updates": f"{card.trained.step:,}",
        "digest of parameters": card.digest,
        "licence": card.licence or "not stated",
    }


def limits(card: CardFacts) -> list[str]:
    """Return what a user must know."""
    found: list[str] = list(LIMITS)
    worst = sorted((each for each in card.classes if each.recall < 1), key=lambda each: each.recall)[:WORST]
    if len(card.classes) > 2 and worst:
        shown = ", ".join(f"{each.name} ({said('accuracy', each.recall)})" for each in worst)
        found.insert(0, f"Least often right: {shown}.")
    if not card.trained.was_trained_here:
        found.append("The weights were imported: what they were trained on is what their source says.")
    return [*found, *card.notes]


def page(card: CardFacts) -> Page:
    """Return the card as a page."""
    name = card.trained.config.model.name
    figures = [] if card.before is None else [reliability(card.before, card.after)]
    metrics = Table(
        "Metrics",
        {
            "metric": [figure.name for figure in card.figures],
            "value": [said(figure.name, figure.value) for figure in card.figures],
            "95 % interval": [_interval(figure.name, figure.low, figure.high) for figure in card.figures],
            "how": [figure.how for figure in card.figures],
        },
        unfolded=True,
    )
    classes = Table(
        "Classes",
        {
            "class": [each.name for each in card.classes],
            "images": np.array([each.examples for each in card.classes]),
            "recall": np.array([each.recall for each in card.classes]),
            "recall interval": [_interval("accuracy", *each.recall_interval) for each in card.classes],
            "precision": np.array([each.precision for each in card.classes]),
            "precision interval": [_interval("accuracy", *each.precision_interval) for each in card.classes],
        },
    )
    forms = Table(
        "Forms",
        {
            "form": [form.name for form in card.forms],
            "MB": [f"{form.megabytes:.2f}" for form in card.forms],
            "ms, 1 image": [_time(form.one) for form in card.forms],
            "ms, 16 images": [_time(form.sixteen) for form in card.forms],
            "note": [form.said for form in card.forms],
        },
        unfolded=True,
    )
    sections = [
        Section("Figures", f"Of {card.evaluated}.", tables=[metrics, *([classes] if card.classes else [])]),
        Section("Calibration", " ".join(_calibration(card)), figures=figures),
        Section("Speed and size", f"On {card.machine or 'this machine'}; it may have been busy.", tables=[forms]),
        Section("Data", tables=[_two_columns("Data", _data(card))]),
        Section("Recipe", tables=[_two_columns("Options", _recipe(card))]),
        Section("Known limits", " ".join(limits(card))),
    ]
    headline = card.figures[0] if card.figures else None
    summary = [f"{card.counts.params:,} parameters, {card.counts.macs:,} multiply-additions an image."]
    for figure in (headline, *[f for f in card.figures if f.name == card.trained.task.headline]):
        if figure is not None and figure.name == card.trained.task.headline:
            interval = _interval(figure.name, figure.low, figure.high)
            summary.insert(0, f"{figure.name} {said(figure.name, figure.value)} ({interval}) of {card.evaluated}.")
            break
    return Page(f"Model card: {name}", facts(card), summary, sections)


def reliability(before: Calibration, after: Calibration | None) -> DepthFigure:
    """Draw how often the network is right against how sure it is."""
    figure = new_figure((5.0, 4.2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="perfect")
    looks = [(before, BLUE, "o", "as trained")]
    looks += [(after, VERMILION, "s", "with the temperature")] if after is not None else []
    for found, colour, marker, label in looks:
        there = found.count > 0
        named = f"{label}, ECE {100 * found.ece:.2f} %"
        axes.plot(
            found.confidence[there], found.accuracy[there], color=colour, marker=marker, markersize=4, label=named
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean confidence of the bin", ylabel="share that is right")
    percent_axis(axes.xaxis)
    percent_axis(axes.yaxis)
    plain(axes)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    caption = "Examples by the probability of the answer, 15 bins; below the diagonal the network is too sure."
    return DepthFigure("reliability", "Reliability", caption, figure)


def _calibration(card: CardFacts) -> list[str]:
    if card.before is None:
        return [f"Temperature {card.fitted_on}."]
    lines = [
        f"Expected calibration error (15 bins) {100 * card.before.ece:.2f} %, cross-entropy {card.before.loss:.4f}, "
        f"of {card.evaluated}."
    ]
    if card.after is None or card.temperature is None:
        return [*lines, f"Temperature {card.fitted_on}."]
    lines.append(
        f"With logits divided by the temperature {card.temperature:.4f}, fitted on {card.fitted_on}: "
        f"{100 * card.after.ece:.2f} % and {card.after.loss:.4f}. No answer changes."
    )
    return lines


def _data(card: CardFacts) -> dict[str, str]:
    run, data = card.trained, card.trained.card
    geometry = run.geometry
    counts = ", ".join(f"{split} {number:,}" for split, number in data.examples.items())
    size = "x".join(map(str, data.image_shape))
    if geometry.image_size is not None:
        size += f", shorter side to {geometry.shorter_side} ({geometry.interpolation}), centre cut out"
    return {
        "source": source_name(run.config.data.source) if run.was_trained_here else "that of the imported weights",
        "images": counts or "none of its own: imported",
        "classes": f"{len(data.class_names)}: {', '.join(data.class_names[:12])}"
        + (", ..." if len(data.class_names) > 12 else ""),
        "digest of labels": data.labels or "not kept",
        "input": size,
        "mean": " ".join(f"{value:.4f}" for value in data.mean),
        "std": " ".join(f"{value:.4f}" for value in data.std),
        "evaluated on": f"{card.result.examples:,} images, {card.evaluated}",
    }


def _recipe(card: CardFacts) -> dict[str, str]:
    config = card.trained.config
    if not card.trained.was_trained_here:
        return {"recipe": f"{config.recipe} (not trained here)"}
    optim, train = config.optim, config.train
    return {
        "recipe": config.recipe,
        "seed": str(config.seed),
        "length": str(train.length),
        "batch": str(train.batch_size),
        "optimizer": f"{optim.name}, rate {optim.learning_rate}, weight decay {optim.weight_decay}",
        "augmentation": " ".join(config.data.augment) or "none",
        "all of it": "config.yaml",
    }


def _two_columns(title: str, values: dict[str, str]) -> Table:
    return Table(title, {"what": list(values), "value": list(values.values())}, unfolded=True)


def _interval(name: str, low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{said(name, low)} to {said(name, high)}"


def _time(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.2f}"


def _cell(text: Any) -> str:
    """Return text that stays in its cell of a Markdown table and is no markup of its own."""
    plain_text = " ".join(str(text).split())
    for mark in "\\`*_[]<>|#":
        plain_text = plain_text.replace(mark, f"\\{mark}")
    return plain_text


def _rows(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, tuple("---" for _ in head), *[tuple(_cell(cell) for cell in row) for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _front_matter(card: CardFacts) -> str:
    """Return the hub's front matter, in YAML (every value is JSON, which is YAML)."""
    metrics = [
        {"type": figure.name, "value": figure.value}
        for figure in card.figures
        if figure.how == "Wilson" and math.isfinite(figure.value)
    ]
    name = card.trained.config.model.name
    source = card.trained.config.data.source if card.trained.was_trained_here else card.result.place
    index = {
        "name": name,
        "results": [
            {
                "task": {"type": "image-classification"},
                "dataset": {"name": source.rpartition("/")[2] or source, "type": source.partition(":")[0] or "images"},
                "metrics": metrics,
            }
        ],
    }
    values: dict[str, Any] = {
        "license": card.licence or "unknown",
        "library_name": "resnet_jax",
        "tags": ["jax", "resnet"],
    }
    if card.trained.task.kind == "classification":
        values |= {"pipeline_tag": "image-classification", **({"model-index": [index]} if metrics else {})}
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()) + "---\n"
