r"""Language identification from 128 characters: translated manual pages, split by whole pages.

Claim examined: a small residual network on single characters (like VDCNN, recipe `text-languages`) distinguishes ten
languages with the same alphabet in unseen texts. Found: 97.84 % of windows of 128 characters.

    uv run python experiments/languages.py texts runs/languages
    resnet-jax train text-languages --data.source text:runs/languages --run-dir runs/text-languages

The texts are the manual pages in /usr/share/man of a Debian base system (packages dpkg, dpkg-dev, apt, man-db, passwd,
login, procps, xz-utils, debianutils, net-tools and others), in every language that has 30 pages; the English texts are
the originals of the same names. **Licenses** are the packages' own (dpkg GPL-2+, apt GPL-2+, passwd and login
BSD-3-clause, man-db GPL-3+, procps GPL-2+, xz-utils public domain and GPL-2+): /usr/share/doc/PACKAGE/copyright. None
of the texts is in this repository. Everything that is not running text is removed: requests and escapes of roff, short
lines, and lines that are the same in two languages.

Hardware, time and result: experiments/results/languages/README.md.
"""

from __future__ import annotations

import argparse
import gzip
import re
import unicodedata
from collections import Counter
from pathlib import Path

LANGUAGES = ("da", "de", "es", "fr", "it", "nl", "pl", "pt", "sv")
LEAST = 40
"""Characters of a line that is taken: a sentence, not a table or an option."""
MOST = 400_000
"""Characters of a language."""
_ACCENTS = {
    ":": "\u0308",
    "'": "\u0301",
    "`": "\u0300",
    "^": "\u0302",
    "~": "\u0303",
    ",": "\u0327",
    "o": "\u030a",
    "v": "\u030c",
}
_GLYPHS = {
    "ss": "ß", "ae": "æ", "AE": "Æ", "/o": "ø", "/O": "Ø", "-D": "Ð", "Sd": "ð", "/l": "ł", "/L": "Ł", "aq": "'",
    "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "Fo": "«", "Fc": "»", "em": "—", "en": "–",
}  # fmt: skip
_GLYPH = re.compile(r"\\\((..)|\\\*?\[([^]]*)\]")
_ESCAPES = (
    (re.compile(r"\\f(?:\[[^]]*\]|\(..|.)"), ""),
    (re.compile(r"\\[-e]"), "-"),
    (re.compile(r"\\\*\(..|\\[&%|^:/,]|\\s[+-]?\d"), ""),
    (re.compile(r"\\ "), " "),
    (re.compile(r"\\"), ""),
)


def glyph(match: re.Match[str]) -> str:
    r"""Return the character that an escape such as ``\(:o`` or ``\[u00E9]`` stands for; nothing if it is none."""
    name = match[1] or match[2]
    if re.fullmatch("u[0-9A-F]{4,5}", name):
        return chr(int(name[1:], 16))
    if len(name) == 2 and name[0] in _ACCENTS and name[1].isalpha():
        return unicodedata.normalize("NFC", name[1] + _ACCENTS[name[0]])
    return _GLYPHS.get(name, "")


def sentences(file: Path) -> list[str]:
    """Return the lines of running text of a manual page."""
    try:
        text = gzip.decompress(file.read_bytes()).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in text.splitlines():
        if line.startswith((".", "'")):
            continue
        line = _GLYPH.sub(glyph, line)
        for pattern, by in _ESCAPES:
            line = pattern.sub(by, line)
        if len(line) >= LEAST:
            found.append(line.strip())
    return found


def write_texts(man: Path, target: Path) -> None:
    """Write ``target/LANGUAGE/PAGE.txt``."""
    pages = {name: sorted((man / name).glob("man*/*.gz")) for name in LANGUAGES}
    known = {file.name for files in pages.values() for file in files}
    pages["en"] = sorted(file for file in man.glob("man*/*.gz") if file.name in known)
    texts = {name: {file.name: sentences(file) for file in files} for name, files in pages.items()}
    seen = Counter(line for pages in texts.values() for line in {line for lines in pages.values() for line in lines})
    for name, pages_of in texts.items():
        folder, total = target / name, 0
        folder.mkdir(parents=True, exist_ok=True)
        for page, lines in pages_of.items():
            text = "\n".join(line for line in lines if seen[line] == 1)
            if len(text) < 128 or total > MOST:
                continue
            total += len(text)
            (folder / f"{page.removesuffix('.gz')}.txt").write_text(text, encoding="utf-8")
        print(f"{name}: {len(list(folder.iterdir()))} pages, {total:,} characters")


def main() -> None:
    """Read the arguments and write the texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["texts"])
    parser.add_argument("target", type=Path)
    parser.add_argument("--man", type=Path, default=Path("/usr/share/man"))
    given = parser.parse_args()
    write_texts(given.man, given.target)


if __name__ == "__main__":
    main()
