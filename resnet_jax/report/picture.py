"""A picture of pixels in a page: an image, or an image with a map over it."""

from __future__ import annotations

import base64
import dataclasses
import html
from pathlib import Path

from resnet_jax.report.text import visible
from resnet_jax.runtime.files import replacing


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture and the words that go with it.

    Attributes:
        name: of its file; lower case and hyphens.
        title: headline.
        caption: what is seen, and numbers; lines.
        png: bytes of a PNG file.
        wide: whether it takes the width of all columns.
        double: whether it takes the width of two columns, where there are several.
    """

    name: str
    title: str
    caption: str
    png: bytes
    wide: bool = False
    double: bool = False

    #: There is always something in it.
    empty = False

    def markup(self) -> str:
        """Return it as an ``<img>`` element; what a screen reader says are title and caption."""
        label = html.escape(visible(f"{self.title}. {self.caption}"), quote=True)
        data = base64.b64encode(self.png).decode()
        return f'<img src="data:image/png;base64,{data}" alt="{label}" loading="lazy">'

    def save_png(self, folder: Path) -> Path:
        """Write ``folder/NAME.png``."""
        path = folder / f"{self.name}.png"
        with replacing(path) as partial:
            partial.write_bytes(self.png)
        return path
