"""The report of a check as lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from resnet_jax.data.check_report import IMBALANCE, SHOWN, CheckReport, Group
from resnet_jax.data.layout import shortened
from resnet_jax.tasks.facts import SAID_OF_KIND

MOST_CLASSES = 30
"""Maximum number of classes in the table; with more, the most frequent and the rarest few."""
FEW = 5


def report_lines(report: CheckReport) -> list[str]:
    """Return the report, line by line."""
    examples = ", ".join(f"{split} {count:,}" for split, count in report.examples.items())
    lines = [f"{report.source}: {examples} examples, {SAID_OF_KIND[report.kind]}"]
    lines += [f"  {note}" for note in report.notes]
    lines += ["", *_classes(report)] if report.counts else []
    lines += ["", f"shapes    {_shapes(report.shapes)}"] if report.shapes else [""]
    lines += [f"values    {_counted(report.dtypes)}"]
    lines += [f"stored as {_counted(report.modes)}"] if report.modes else []
    if report.mean:
        scale = "of x / 255" if set(report.dtypes) == {"uint8"} else "of the values"
        which = "training examples" if "train" in report.examples else "all examples"
        lines += [f"mean      {_numbers(report.mean)}   {scale}, {which}: data.mean"]
        lines += [f"std       {_numbers(report.std)}   data.std"]
    lines += list(report.facts)
    lines += ["", *_trouble(report)]
    return lines


def _classes(report: CheckReport) -> list[str]:
    splits = list(report.counts)
    total = [sum(column) for column in zip(*report.counts.values(), strict=True)]
    order = list(range(len(total)))
    cut = len(order) > MOST_CLASSES
    if cut:
        order = sorted(order, key=lambda label: -total[label])
        order = order[:FEW] + order[-FEW:]
    names = [report.class_names[label] for label in order]
    width = min(40, max(len(name) for name in (*names, "class")))
    columns = [max(len(split), *(len(f"{report.counts[split][label]:,}") for label in order)) for split in splits]
    heads = "  ".join(split.rjust(wide) for split, wide in zip(splits, columns, strict=True))
    lines = [f"{report.counted}:", f"  {'class'.ljust(width)}  {heads}   share"]
    whole = max(sum(total), 1)
    for place, (name, label) in enumerate(zip(names, order, strict=True)):
        if cut and place == FEW:
            lines.append(f"  ... {len(total) - 2 * FEW:,} classes between")
        cells = "  ".join(f"{report.counts[s][label]:,}".rjust(w) for s, w in zip(splits, columns, strict=True))
        lines.append(f"  {name[:width].ljust(width)}  {cells}  {total[label] / whole:6.1%}")
    without = [name for name, count in zip(report.class_names, total, strict=True) if not count]
    if without:
        lines.append(f"  {len(without):,} classes have none: {shortened(without)}")
    if report.imbalance is not None and report.imbalance >= IMBALANCE:
        lines.append(f"  imbalance: the most frequent class has {report.imbalance:,.0f} times as many as the rarest")
    return lines


def _shapes(shapes: Counter[tuple[int, ...]]) -> str:
    if len(shapes) <= 4:
        return _counted(Counter({" x ".join(map(str, shape)): count for shape, count in shapes.items()}))
    ranks = {len(shape) for shape in shapes}
    if len(ranks) > 1:
        return f"{len(shapes):,} different ones, of {', '.join(map(str, sorted(ranks)))} axes"
    axes = {3: ("height", "width", "channels"), 2: ("length", "channels")}.get(ranks.pop(), ())
    said = []
    for axis, name in enumerate(axes):
        values = sorted(shape[axis] for shape in shapes.elements())
        low, middle, high = values[0], values[len(values) // 2], values[-1]
        said.append(f"{name} {low:,}" if low == high else f"{name} {low:,} to {high:,} (median {middle:,})")
    return f"{len(shapes):,} different ones: {', '.join(said)}"


def _counted(counter: Counter[str]) -> str:
    total = sum(counter.values())
    if len(counter) == 1:
        return f"{next(iter(counter))}, all {total:,}"
    return shortened([f"{name} ({count:,})" for name, count in counter.most_common()], 8)


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _trouble(report: CheckReport) -> list[str]:
    total = sum(report.examples.values())
    lines = [f"unreadable: {len(report.unreadable):,} of {total:,}"]
    lines += [f"  {split}: {reason}" for split, _, reason in report.unreadable[:SHOWN]]
    lines += _more(report.unreadable)
    lines += _groups("the same in several splits (leakage)", report.leaks)
    lines += _groups("the same with different labels", report.conflicts)
    inside = [group for group in report.same if not group.across and not group.conflict]
    lines += _groups("the same within a split", inside)
    if inside and "all" in report.examples:
        lines.append("  (one split, which a run divides: what is there twice may come to be trained and tested on)")
    if report.looked_for_near:
        lines += _groups("nearly the same in two splits", report.near_leaks)
        lines += _groups("nearly the same within a split", [pair for pair in report.near if not pair.across])
    else:
        lines.append("nearly the same: looked for among images only")
    return lines


def _groups(what: str, found: Sequence[Group]) -> list[str]:
    return [f"{what}: {len(found):,}", *(f"  {group}" for group in found[:SHOWN]), *_more(found)]


def _more(found: Sequence[object]) -> list[str]:
    return [f"  and {len(found) - SHOWN:,} more (--json lists them)"] if len(found) > SHOWN else []
