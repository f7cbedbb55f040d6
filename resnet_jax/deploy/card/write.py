"""The files of a model card: README.md, report.html with its figures, and card.json with every figure."""

from __future__ import annotations

import json
from pathlib import Path

from resnet_jax.deploy.card.facts import CardFacts
from resnet_jax.deploy.card.render import markdown, page
from resnet_jax.errors import RunError
from resnet_jax.report.depth_page import write_page
from resnet_jax.runtime.files import write_whole

README, FIGURES = "README.md", "card.json"


def write_card(card: CardFacts, out: Path) -> Path:
    """Write README.md, report.html and card.json into a folder; return the Markdown's path.

    Raises:
        RunError: it cannot be written.
    """
    shown = page(card)
    write_page(shown, out)
    try:
        write_whole(out / FIGURES, json.dumps(card.to_json(), indent=2) + "\n")
        write_whole(out / README, markdown(card, shown))
    except OSError as error:
        raise RunError(f"cannot write the card in {out}: {error.strerror or error}") from error
    return out / README
