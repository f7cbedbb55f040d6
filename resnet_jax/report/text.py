"""Text as it was typed, wherever it is shown: names of classes, files and networks may hold any character.

A terminal obeys control characters and Rich reads ``[bold]`` and ``:cat:``; a figure reads ``$x_1$`` as mathematics
and leaves out of a legend what begins with ``_``; no font has every letter; bytes that are not UTF-8 cannot be encoded.
Everything of a user's that is shown goes through here: :func:`visible` for lines and pages, :func:`drawn` for figures,
:func:`say` and :func:`working` for a terminal.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

#: What stands in for characters that would act instead of being seen, by category: control, surrogate, line, paragraph.
_ACTING = ("Cc", "Cs", "Zl", "Zp")
#: Fonts for scripts that matplotlib's own font lacks, if they are installed: Noto, then those of the systems.
FALLBACK_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Source Han Sans", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo",
    "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai",
    "Noto Sans Bengali", "Noto Sans Tamil", "Nirmala UI", "Leelawadee UI", "Noto Emoji", "Segoe UI Symbol",
    "Segoe UI Emoji", "Symbola",
)  # fmt: skip
FONT = "DejaVu Sans"


def visible(text: str, keep: str = "") -> str:
    r"""Return one line that can be encoded: a line break is shown as ``\n``, a byte that is not UTF-8 as ``\xff``.

    Args:
        text: any.
        keep: control characters that stay.

    >>> visible("a\nb\udcff"), visible("déjà [bold] $x$ :cat:"), visible("1\n2", keep="\n")
    ('a\\nb\\xff', 'déjà [bold] $x$ :cat:', '1\n2')
    """
    return "".join(c if c in keep or not _acts(c) else _escape(c) for c in text)


def drawn(text: str) -> str:
    r"""Return text for a title, tick, legend or label of a figure, where it will look as typed.

    A character that no installed font can draw is shown by its number, as ``\u732b``: a row of equal boxes would not
    tell two classes apart.

    >>> drawn("cost in $"), drawn("_x_"), drawn("a\nb")
    ('cost in \\$', '\u200b_x_', 'a\\nb')
    """
    known = "".join(c if c.isascii() or _can_draw(c) else _escape(c) for c in visible(text))
    return ("\u200b" if known.startswith("_") else "") + known.replace("$", r"\$")


class PlainConsole(Console):
    """A Rich console that prints strings whole and as they are: no markup, emoji codes, colours or wrapping."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**{"soft_wrap": True, "markup": False, "emoji": False, "highlight": False, **how})

    def render_str(self, text: str, **how: Any) -> Text:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the text, with what a terminal would obey made visible."""
        return super().render_str(visible(text, keep="\n\t"), **how)


def say(console: Console, text: str) -> None:
    """Print lines whole and as they are: nothing wrapped, cut, coloured or read as markup."""
    console.print(Text(visible(text, keep="\n")), soft_wrap=True)


def working(console: Console, text: str) -> Any:
    """Return a context in which a terminal says what is being done."""
    return console.status(Text(visible(text)))


@functools.cache
def font_families() -> list[str]:
    """Return matplotlib's own font and, after it, those that have letters it lacks and are installed."""
    from matplotlib import font_manager

    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return [FONT, *(name for name in FALLBACK_FONTS if name in installed)]


@functools.cache
def _can_draw(character: str) -> bool:
    return any(font.get_char_index(ord(character)) != 0 for font in _fonts())


@functools.cache
def _fonts() -> list[Any]:
    from matplotlib import font_manager

    return [font_manager.get_font(font_manager.findfont(name)) for name in font_families()]


def _acts(character: str) -> bool:
    return unicodedata.category(character) in _ACTING or ord(character) & 0xFFFE == 0xFFFE


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a file name that is not UTF-8
        return rf"\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
