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


def render_page(engine: Engine, limits: Limits, *, explains: bool) -> str:
    """Return the page; it holds the network's name, and no class.

    Args:
        engine: what is served.
        limits: what the page makes smaller before it sends it.
        explains: whether there are pictures of where a class is seen.
    """
    height, width, channels = engine.shape
    facts = json.dumps({"bytes": limits.body, "pixels": limits.pixels, "explains": explains}).replace("<", "\\u003c")
    colours = "in colours" if channels == 3 else "in grey"
    where = (
        "The picture beside them shows where in the image the class is seen; choose another class to see it for that."
        if explains
        else ""
    )
    fields = {
        "TITLE": escape(engine.name),
        "SIZE": f"{height}x{width} pixels {colours}",
        "COUNT": f"{len(engine.classes):,}",
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
