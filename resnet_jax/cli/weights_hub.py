"""``resnet-jax weights list | fetch``: published weights by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.report.text import say

#: Sub-verb -> what it does.
VERBS = {
    "list": "published weights by name: network, size, accuracy, licence, checksum",
    "fetch": "NAME: published weights into the cache, compared with their checksum",
}


@dataclasses.dataclass(frozen=True)
class ListOptions:
    """Options of ``weights list``."""

    filter: str = "*"
    """Only those whose name, network, classes or licence match this pattern, such as 'resnet50.*', or contain it."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


@dataclasses.dataclass(frozen=True)
class FetchOptions:
    """Options of ``weights fetch``."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """A name of `weights list`."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Take the weights from this file, or from the folder that has it, and from no network."""
    cache: Path | None = None
    """The folder to keep them in (default: weights in the cache directory of this package)."""
    via: Literal["auto", "url", "hub"] = "auto"
    """Where they lie at a URL and on the hub: from which (auto: the one of which a checksum is known)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def _list(argv: list[str]) -> list[dict[str, Any]]:
    options = parse(ListOptions, argv, verb="weights list", about="List published weights by name.")
    from resnet_jax.weights.published import list_weights

    rows = list_weights(options.filter)
    columns = ("name", "network", "pixels", "top-1", "classes", "licence", "checksum")
    table: list[tuple[str, ...]] = [columns]
    for row in rows:
        changed = f"{row.model} +" if row.choices else row.model
        top = "" if row.top1 is None else f"{row.top1:.2f}"
        checksum = row.about_checksum.replace(" of sha256", "")
        table.append((row.name, changed, str(row.image_size), top, row.classes, row.licence or "not stated", checksum))
    widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
    console = console_for(options.common)
    for line in table:
        say(console, "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    say(console, f"{len(rows)} weights. top-1: percent, as their source says; +: the network with choices of its own.")
    return [row.to_json() for row in rows]


def _fetch(argv: list[str]) -> dict[str, Any]:
    options = parse(FetchOptions, argv, verb="weights fetch", about="Fetch published weights into the cache.")
    from resnet_jax.deploy.hub import fetch_weights

    console = console_for(options.common)
    found = fetch_weights(
        options.name,
        source=options.source,
        cache=options.cache,
        via=options.via,
        say=lambda line: say(console, line),
    )
    row = found.row
    say(console, f"{found.path}: {row.model}, {found.checked}")
    say(console, f"licence {row.licence or 'not stated'}, as {row.source} states it")
    return {
        "name": row.name,
        "path": str(found.path),
        "sha256": found.sha256,
        "checked": found.checked,
        "came_from": found.came_from,
        "licence": row.licence,
    }


#: Sub-verb -> what runs it.
RUN: dict[str, Callable[[list[str]], Any]] = {"list": _list, "fetch": _fetch}
