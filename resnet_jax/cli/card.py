"""``resnet-jax card RUN_DIR``: a model card, as Markdown and as a page."""

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
    """The run directory, or a name that `weights list` lists."""
    out: Path | None = None
    """The folder to write README.md, report.html and card.json to (default: card in the run directory; of weights by
    name card-NAME here)."""
    split: str = "test"
    """The split that the figures are of; of another source, its own, or all."""
    source: str | None = None
    """Images in place of the run's own, such as npz:PATH or folder:PATH, as eval --data.source."""
    val_source: str | None = None
    """Images to fit the temperature on, in place of the run's own validation images."""
    licence: str = ""
    """Licence of the weights, as the hub writes it (apache-2.0, cc-by-4.0, ...)."""
    forms: tuple[Path, ...] = ()
    """Exported files to measure too, beside those that lie in the run directory."""
    depth: bool = True
    """Measure signals and gradients through depth, on images of the run's own training or of --source."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Write the card; return its figures."""
    options = parse(CardOptions, argv, verb="card", about="Write a model card: figures with intervals, calibration.")
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
