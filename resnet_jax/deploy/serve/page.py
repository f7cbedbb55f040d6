"""The page where a person drops an image: one file, without fonts, scripts or styles from elsewhere."""

from __future__ import annotations

import json
from importlib import resources

from resnet_jax.deploy.serve.engine import Engine
from resnet_jax.deploy.serve.options import Limits
from resnet_jax.report.depth_page import escape

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do: call the server that it came from, and nothing else."""


WHAT = {
    "classification": "tells it from {count} classes",
    "binary": "says yes or no",
    "multilabel": "says which of {count} labels it has",
    "segmentation": "says of every pixel which of {count} classes it is of",
    "detection": "looks for things of {count} classes and draws their boxes",
    "regression": "gives the values of {count} targets",
    "multitask": "answers several questions at once",
}
"""Task -> what the network does with an image."""

WHERE = {
    "classification": "The picture shows where in the image the class is seen; choose another class to see that one.",
    "segmentation": "Choose a class to see how likely each pixel is of it.",
    "detection": "Choose a class to see its boxes alone.",
}


def render_page(engine: Engine, limits: Limits, *, explains: bool) -> str:
    """Return the page; it holds the network's name, and no class.

    Args:
        engine: what is served.
        limits: what the page makes smaller before it sends it.
        explains: whether there are pictures of where a class is seen.
    """
    height, width, channels = engine.shape
    nothing = "It finds nothing here." if engine.task == "detection" else "No answer is above its threshold."
    whole = engine.task in ("segmentation", "detection")  # there is a picture of all classes, to go back to
    given = {"bytes": limits.body, "explains": explains, "whole": whole, "nothing": nothing}
    facts = json.dumps(given).replace("<", "\\u003c")
    colours = "in color" if channels == 3 else "in gray"
    where = WHERE.get(engine.task, "") if explains else ""
    what = WHAT.get(engine.task, "says what it is by {count} answers").format(count=f"{len(engine.classes):,}")
    fields = {
        "TITLE": escape(engine.name),
        "SIZE": f"{height}x{width} pixels {colours}",
        "WHAT": escape(what),
        "WHERE": escape(where),
        "FACTS": facts,
        "STYLE": _resource("resnet_jax.report", "page.css") + _resource("resnet_jax.deploy.serve", "page.css"),
        "SCRIPT": _resource("resnet_jax.report", "page.js") + _resource("resnet_jax.deploy.serve", "page.js"),
    }
    text = _resource("resnet_jax.deploy.serve", "page.html")
    for name, value in fields.items():
        text = text.replace(f"@@{name}@@", value)
    return text


def _resource(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
