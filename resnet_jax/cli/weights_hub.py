"""``resnet-jax weights list | fetch | push | pull``: published weights by name, and runs as folders for a model hub."""

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
    "list": "list published weights: network, size, accuracy, license, checksum",
    "fetch": "NAME: download published weights into the cache, and verify their checksum",
    "push": "RUN_DIR FOLDER: write a run as a folder for a model hub, with model card and checksums",
    "pull": "FOLDER: turn such a folder into a run directory, and verify its checksums",
}


@dataclasses.dataclass(frozen=True)
class ListOptions:
    """Options of ``weights list``."""

    filter: str = "*"
    """Show only weights whose name, network, classes or license match this pattern, such as 'resnet50.*', or contain
    it."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


@dataclasses.dataclass(frozen=True)
class FetchOptions:
    """Options of ``weights fetch``."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """A name from `weights list`."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Take the weights from this file, or from the folder that contains it, without using the network."""
    cache: Path | None = None
    """The folder to keep them in (default: weights in this package's cache directory)."""
    via: Literal["auto", "url", "hub"] = "auto"
    """Where to download from if the weights are both at a URL and on the hub (auto: the one whose checksum is
    known)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


@dataclasses.dataclass(frozen=True)
class PushOptions:
    """Options of ``weights push``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run directory."""
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """The folder to write. Upload it with the hub's own tool (hf upload OWNER/NAME FOLDER)."""
    licence: str
    """License of the weights, as a model hub spells it (apache-2.0, cc-by-4.0, ...)."""
    card: bool = True
    """Evaluate the run for a model card. Use --no-card if its images are not available."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


@dataclasses.dataclass(frozen=True)
class PullOptions:
    """Options of ``weights pull``."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """A folder written by `weights push`, downloaded completely (hf download OWNER/NAME --local-dir FOLDER)."""
    out: Path
    """The run directory to write."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def _push(argv: list[str]) -> dict[str, Any]:
    options = parse(PushOptions, argv, verb="weights push", about="Write a run as a folder for a model hub.")
    from resnet_jax.deploy.hub_folder import push_run

    console = console_for(options.common)
    folder = push_run(
        options.run_dir, options.folder, licence=options.licence, card=options.card, say=lambda line: say(console, line)
    )
    say(console, f"{options.run_dir} is {folder}; nothing was uploaded")
    return {"folder": str(folder)}


def _pull(argv: list[str]) -> dict[str, Any]:
    options = parse(PullOptions, argv, verb="weights pull", about="Make a run directory of a folder from a hub.")
    from resnet_jax.deploy.hub_folder import pull_run

    run = pull_run(options.folder, options.out)
    say(console_for(options.common), f"{options.folder} is now {run.path}")
    return {"run_dir": str(run.path)}


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
    say(console, f"{len(rows)} weights. top-1: percent, as reported by the source; +: a modified network.")
    say(console, "resnet-jax predict NAME IMAGE fetches them if necessary; so do eval, finetune, export, serve, ...")
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
    say(
        console,
        f"use its name like a run directory: resnet-jax predict {row.name} IMAGE, eval, finetune, export, ...",
    )
    return {
        "name": row.name,
        "path": str(found.path),
        "sha256": found.sha256,
        "checked": found.checked,
        "came_from": found.came_from,
        "licence": row.licence,
    }


#: Sub-verb -> what runs it.
RUN: dict[str, Callable[[list[str]], Any]] = {"list": _list, "fetch": _fetch, "push": _push, "pull": _pull}
