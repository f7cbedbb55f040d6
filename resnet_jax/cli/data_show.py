"""``resnet-jax data show RECIPE | RUN_DIR | SOURCE``: draw a contact sheet of what the network sees."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro
from annotated_types import Interval

from resnet_jax.cli.options import Common, asks_for_help, console_for, flags_last, parse
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast0, check_fields
from resnet_jax.report.text import say, working
from resnet_jax.runs.config import DataConfig

ABOUT = (
    "Draw a picture of examples. For a recipe (by name or as a YAML file) or a run directory, each example is drawn as "
    "it is stored and, beside it, as the network sees it in training: after the transforms on host and device with the "
    "run's own random draws, with the resulting labels, masks and boxes. A data source alone, such as folder:PATH, or "
    "a path is drawn as it is stored, or with --data.augment or --data.image-size as a network would see it. "
)
#: Fields that say how a source is read, not what a network sees.
READING = ("pixels", "shown_bands", "orientation", "class_pattern", "class_list", "moved_to", "threads")


@dataclasses.dataclass(frozen=True)
class ShowOptions:
    """Options of ``data show``."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """Changes to the data of the recipe or run."""
    split: str | None = None
    """The split to draw: train, val or test, or all for a source that is not split (default: train, or all)."""
    count: Annotated[int, Interval(ge=1, le=200)] = 12
    """Number of examples."""
    epoch: AtLeast0 = 0
    """The training epoch, counted from 0. Each epoch draws different augmentations."""
    step: AtLeast0 = 0
    """The batch within the epoch, counted from 0."""
    seed: AtLeast0 | None = None
    """Seed of the data order and of the augmentations (default: the recipe's or run's own)."""
    out: Path | None = None
    """The PNG file to write (default: data-show.png in the current directory)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Draw the picture and return where it is."""
    words = flags_last(argv)
    if asks_for_help(words):
        parse(ShowOptions, words, verb="data show RECIPE", about=ABOUT)
    if not words or words[0].startswith("-"):
        raise UsageError(
            "name a recipe, a run directory or a data source first, then options: resnet-jax data show RECIPE ..."
        )
    from resnet_jax.runs.data_show import Which, named, sheet_of_config, sheet_of_source

    found = named(words[0])
    options = parse(
        ShowOptions,
        words[1:],
        verb=f"data show {words[0]}",
        about=f"{ABOUT}The defaults shown are those of {words[0]}.",
        default=ShowOptions(data=found.config.data),
    )
    check_fields(options)
    out = options.out or Path("data-show.png")
    if out.suffix.lower() != ".png":
        raise UsageError(f"out {out}: the picture is a PNG; write {out.with_suffix('.png')}")
    seed = found.config.seed if options.seed is None else options.seed
    config = dataclasses.replace(found.config, data=options.data, seed=seed)
    which = Which(options.split, options.count, options.epoch, options.step)
    as_stored = found.bare and _same_but(options.data, found.config.data, READING)
    from resnet_jax.report.contact_sheet import draw_sheet

    console = console_for(options.common)
    with working(console, f"reading {options.data.place}"):
        sheet = sheet_of_source(config, which) if as_stored else sheet_of_config(found, config, which)
        draw_sheet(sheet, out)
    for line in (sheet.title, *sheet.lines):
        say(console, line)
    say(console, f"drawn in {out}")
    return {"out": str(out), "title": sheet.title, "lines": list(sheet.lines), "examples": len(sheet.shown)}


def _same_but(one: DataConfig, other: DataConfig, fields: tuple[str, ...]) -> bool:
    return dataclasses.replace(one, **{name: getattr(other, name) for name in fields}) == other
