"""``resnet-jax card RUN_DIR``: write a model card as Markdown and as an HTML page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.named import existing_run
from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.report.text import say


@dataclasses.dataclass(frozen=True)
class CardOptions:
    """Options of ``card``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """A run directory, or a name from `weights list`."""
    out: Path | None = None
    """The folder for README.md, report.html and card.json (default: card in the run directory, or card-NAME in the
    current directory for published weights)."""
    split: str = "test"
    """The split to report figures for. With --source, a split of that source, or all."""
    source: str | None = None
    """Images to evaluate instead of the run's own, such as npz:PATH or folder:PATH; as --data.source of eval."""
    val_source: str | None = None
    """Images to fit the temperature on, instead of the run's own validation images."""
    licence: str = ""
    """License of the weights, as a model hub spells it (apache-2.0, cc-by-4.0, ...)."""
    forms: tuple[Path, ...] = ()
    """Exported files to measure, in addition to those in the run directory."""
    depth: bool = True
    """Measure signals and gradients through depth, on the run's own training images or those of --source."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Write the card and return its figures."""
    options = parse(CardOptions, argv, verb="card", about="Write a model card with intervals and calibration.")
    path = existing_run(options.run_dir)
    from resnet_jax.deploy.card.facts import measure
    from resnet_jax.deploy.card.write import write_card

    card = measure(
        path,
        split=options.split,
        source=options.source,
        val_source=options.val_source,
        licence=options.licence,
        forms=options.forms,
        depth=options.depth,
    )
    own = path / "card" if path == options.run_dir else Path(f"card-{options.run_dir}")
    written = write_card(card, options.out or own)
    say(console_for(options.common), f"the card is {written}; with pictures {written.parent / 'report.html'}")
    return {"card": str(written), **card.to_json()}
