"""A model card as one page, written as HTML and as Markdown with the hub's front matter."""

from __future__ import annotations

import json
import math
from typing import Any

from resnet_jax.deploy.card.depth import depth_section
from resnet_jax.deploy.card.facts import CardFacts
from resnet_jax.deploy.card.figures import Figure
from resnet_jax.deploy.card.temperature import Calibration
from resnet_jax.report.canvas import BLUE, VERMILION, new_figure
from resnet_jax.report.depth_axes import INK, DepthFigure, percent_axis, plain
from resnet_jax.report.depth_page import Page, Section, Table
from resnet_jax.report.markdown_page import render_markdown
from resnet_jax.runtime.paths import source_name
from resnet_jax.tasks.task import SHARES, metric_words

LIMITS = (
    "The figures are of the images named above and of nothing else: other cameras, crops, compressions and classes "
    "give other figures.",
    "Intervals are of the choice of test images, as if each were independent of the others (frames of one film are "
    "not); they do not say how much another seed of training would differ.",
)
OF_TASK = {
    "classification": "An image of no class that the network knows still gets one, often with a high probability.",
    "multilabel": "What has no label that the network knows may still get some.",
    "segmentation": "Every pixel gets a class, also what is of no class that the network knows.",
    "detection": "Objects of no class that the network knows are passed over, or taken for one that it knows.",
    "regression": "A number is given whatever is shown, also far from what the network was trained on.",
    "contrastive": "How often the right thing is found depends on how many there are to be searched.",
}
HUB_TASKS = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
}
"""Task -> its name on hubs, for images."""
WORST = 5


def said(name: str, value: float) -> str:
    """Return a metric formatted for people."""
    if not math.isfinite(value):
        return "none"
    last = name.rpartition("/")[2]
    return f"{100 * value:.2f} %" if last in SHARES or last in ("IoU", "F1") else f"{value:.4f}"


def markdown(card: CardFacts, shown: Page) -> str:
    """Return :func:`page` of a card as Markdown, after the front matter for hubs."""
    return _front_matter(card) + render_markdown(shown)


def loading(card: CardFacts) -> str:
    """Return how to load a run in Python, as far as its task and inputs allow."""
    lines = ["from resnet_jax import load_run, predict_images", "", 'trained = load_run("RUN_DIR")']
    task, shape = card.trained.task, card.trained.card.image_shape
    if len(shape) != 3 or "other" in task.inputs:
        lines[0] = "from resnet_jax import load_run"
        given = '{"image": images, "other": others}' if "other" in task.inputs else "inputs"
        said_of = f"normalized, (N, {', '.join(map(str, shape))})"
        lines.append(f"outputs = trained.model.apply(trained.variables, {given}, train=False)  # {said_of}")
        return "\n".join(lines) + "\n"
    numbers = "values" if task.answers == "values" else "probabilities"
    more = ", found.boxes" if task.answers == "boxes" else ""
    return "\n".join(
        [
            *lines,
            'for found in predict_images(trained, ["image.jpg"], top=5):',
            f"    print(found.image, found.classes, found.{numbers}{more})",
            "",
            "# images normalized, (N, H, W, C)",
            "outputs = trained.model.apply(trained.variables, images, train=False)",
            "",
        ]
    )


def facts(card: CardFacts) -> dict[str, str]:
    """Return the facts about the network."""
    return {
        "network": card.trained.config.model.name,
        "changed in it": ", ".join(f"{k} {v}" for k, v in card.trained.config.model.changes.items()) or "nothing",
        "task": card.trained.task.kind,
        "parameters": f"{card.counts.params:,}",
        "multiply-additions": f"{card.counts.macs:,} for each input of {'x'.join(map(str, _shape(card)))}",
        "updates": f"{card.trained.step:,}",
        "digest of parameters": card.digest,
        "license": card.licence or "not stated",
    }


def limits(card: CardFacts) -> list[str]:
    """Return the limitations that a user must know."""
    found = [LIMITS[0], *([OF_TASK[kind]] if (kind := card.trained.task.kind) in OF_TASK else []), LIMITS[1]]
    worst = sorted((each for each in card.classes if each.recall < 1), key=lambda each: each.recall)[:WORST]
    if len(card.classes) > 2 and worst:
        shown = ", ".join(f"{each.name} ({said('accuracy', each.recall)})" for each in worst)
        found.insert(0, f"Least often right: {shown}.")
    if card.trained.task.mode == "max" and len(card.by_class) > 2:
        first = [(name, row[0]) for name, row in card.by_class.items() if math.isfinite(row[0].value)]
        least = sorted(first, key=lambda pair: pair[1].value)[:WORST]
        shown = ", ".join(f"{name} ({said(each.name, each.value)})" for name, each in least)
        found.insert(0, f"Smallest {least[0][1].name if least else ''}: {shown}.")
    if not card.trained.was_trained_here:
        found.append("The weights were imported: what they were trained on is what their source says.")
    return [*found, *card.notes]


def page(card: CardFacts) -> Page:
    """Return the card as a page."""
    figures = [] if card.before is None else [reliability(card.before, card.after)]
    depth = depth_section(card.depth)
    name, headline = card.trained.config.model.name, card.trained.task.headline
    speed = f"Milliseconds, the median of five, on {card.machine or 'this machine'}; it may have been busy."
    sections = [
        Section("Data", tables=[_two_columns("Data", _data(card))]),
        Section("Recipe", tables=[_two_columns("Options", _recipe(card))]),
        Section("Figures", f"Of {card.evaluated}.", tables=_figures(card)),
        Section("Calibration", " ".join(_calibration(card)), figures),
        *([] if depth is None else [depth]),
        Section("Speed and size", speed, tables=[_forms(card)]),
        Section("Known limits", points=limits(card)),
        Section("License", card.licence or "Not stated."),
        Section("How to load it", code=loading(card)),
    ]
    summary = [f"{card.counts.params:,} parameters, {card.counts.macs:,} multiply-additions an input."]
    for figure in card.figures:
        if figure.name == headline:
            interval = _interval(figure.name, figure.low, figure.high)
            name_of = metric_words(figure.name)
            value = f"{name_of[:1].upper()}{name_of[1:]} {said(figure.name, figure.value)}"
            summary.insert(0, f"{value}{f' ({interval})' if interval else ''} on {card.evaluated}.")
    return Page(f"Model card: {name}", facts(card), summary, sections)


def reliability(before: Calibration, after: Calibration | None) -> DepthFigure:
    """Draw the accuracy against the confidence."""
    figure = new_figure((5.0, 4.2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="perfect")
    looks = [(before, BLUE, "o", "as trained")]
    looks += [(after, VERMILION, "s", "with the temperature")] if after is not None else []
    for found, colour, marker, label in looks:
        there = found.count > 0
        named = f"{label}, ECE {100 * found.ece:.2f} %"
        x, y, count = found.confidence[there], found.accuracy[there], found.count[there]
        axes.plot(x, y, color=colour, linewidth=1.0, marker=marker, markersize=3, label=named, clip_on=False)
        axes.scatter(x, y, 12 + 90 * count / count.sum(), color=colour, marker=marker, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean confidence of the bin", ylabel="accuracy of the bin")
    percent_axis(axes.xaxis)
    percent_axis(axes.yaxis)
    plain(axes)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    caption = (
        "Examples by the probability of the answer, 15 bins; the larger the mark, the more examples. Below the "
        "diagonal the network is too sure."
    )
    return DepthFigure("reliability", "Reliability", caption, figure)


def _shape(card: CardFacts) -> tuple[int, ...]:
    return tuple(card.trained.card.image_shape)


def _figures(card: CardFacts) -> list[Table]:
    """Return the tables of metrics, and of classes, labels or targets."""
    shown = {
        "metric": [metric_words(figure.name) for figure in card.figures],
        "value": [said(figure.name, figure.value) for figure in card.figures],
        "95 % interval": [_interval(figure.name, figure.low, figure.high) for figure in card.figures],
        "how": [figure.how for figure in card.figures],
    }
    tables = [Table("Metrics", shown, unfolded=True)]
    if card.classes:
        each = card.classes
        columns = {
            "class": [one.name for one in each],
            "images": [f"{one.examples}" for one in each],
            "recall": [said("accuracy", one.recall) for one in each],
            "interval of recall": [_interval("accuracy", *one.recall_interval) for one in each],
            "precision": [said("accuracy", one.precision) for one in each],
            "interval of precision": [_interval("accuracy", *one.precision_interval) for one in each],
        }
        tables.append(Table("Every class, with Wilson's intervals", columns, unfolded=len(each) <= 20))
    if card.by_class:
        tables.append(_by_class(list(card.by_class), list(zip(*card.by_class.values(), strict=True))))
    return tables


def _by_class(names: list[str], figures: list[tuple[Figure, ...]]) -> Table:
    columns = {"name": names}
    for column in figures:
        head = column[0].name
        columns[head] = [said(each.name, each.value) for each in column]
        columns[f"interval of {head}"] = [_interval(each.name, each.low, each.high) for each in column]
    how = next((each.how for column in figures for each in column if each.how), "")
    return Table(f"Every class or target{f', by {how}' if how else ''}", columns, unfolded=len(names) <= 20)


def _forms(card: CardFacts) -> Table:
    forms = {
        "form": [form.name for form in card.forms],
        "MB": [f"{form.megabytes:.2f}" for form in card.forms],
        "1 input": [_time(form.one) for form in card.forms],
        "16 inputs": [_time(form.sixteen) for form in card.forms],
        "note": [form.said for form in card.forms],
    }
    return Table("Forms", forms, unfolded=True)


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
        size += f", shorter side to {geometry.shorter_side} ({geometry.interpolation}), center cropped"
    names = ", ".join(data.class_names[:12]) + (", ..." if len(data.class_names) > 12 else "")
    found = {
        "source": source_name(run.config.data.source) if run.was_trained_here else "that of the imported weights",
        "examples": counts or "none of its own: imported",
        "classes": f"{len(data.class_names)}: {names}" if data.class_names else "none",
        "digest of labels": data.labels or "not kept",
        "input": size,
    }
    if data.other is not None:
        found["second input"] = "x".join(map(str, data.other.shape))
    return found | {
        "mean": " ".join(f"{value:.4f}" for value in data.mean) or "not subtracted",
        "std": " ".join(f"{value:.4f}" for value in data.std) or "not divided by",
        "evaluated on": f"{card.result.examples:,} examples, {card.evaluated}",
    }


def _recipe(card: CardFacts) -> dict[str, str]:
    config = card.trained.config
    if not card.trained.was_trained_here:
        return {"recipe": f"{config.recipe} (not trained here)"}
    optim, train = config.optim, config.train
    return {
        "recipe": str(config.recipe),
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


def _front_matter(card: CardFacts) -> str:
    """Return the hub's front matter, in YAML (every value is JSON, which is valid YAML)."""
    metrics = [
        {"type": figure.name, "value": figure.value}
        for figure in card.figures
        if figure.how and math.isfinite(figure.value)
    ]
    values: dict[str, Any] = {
        "license": card.licence or "unknown",
        "library_name": "resnet_jax",
        "tags": ["jax", "resnet"],
    }
    task = HUB_TASKS.get(card.trained.task.kind)
    if task is not None and len(_shape(card)) == 3:
        source = card.trained.config.data.source if card.trained.was_trained_here else card.result.place
        kind, name = source.partition(":")[0] or "images", source.rpartition("/")[2] or source
        result = {"task": {"type": task}, "dataset": {"name": name, "type": kind}, "metrics": metrics}
        index = [{"name": card.trained.config.model.name, "results": [result]}]
        values |= {"pipeline_tag": task, **({"model-index": index} if metrics else {})}
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()) + "---\n"
