"""Links of Markdown pages to files of the repository, as links of the site."""

import os
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
RESULTS = ROOT / "experiments" / "results"

#: ``](target)``, outside of code.
_LINK = re.compile(
    r"(?P<code>^(?P<fence>```+|:::+).*?^(?P=fence)\s*$|`[^`\n]+`)"
    r"|(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)",
    re.M | re.S,
)
#: Files that are a page under another name.
PAGES = {
    ROOT / "README.md": "index.md",
    RESULTS: "results/index.md",
    **{path: f"project/{path.name.lower()}" for path in ROOT.glob("*.md") if path.name != "README.md"},
}


def page_of(path: Path) -> Path | None:
    """Return the page of the site, a file in ``docs/``, that shows this file, if one does."""
    if path in PAGES:
        return DOCS / PAGES[path]
    if path.is_relative_to(DOCS) and path.suffix == ".md":
        return path
    if path.is_relative_to(ROOT / "experiments") and path.suffix == ".md":
        name = (
            path.relative_to(RESULTS) if path.is_relative_to(RESULTS) else Path(path.relative_to(ROOT / "experiments"))
        )
        if name == Path("README.md"):
            return DOCS / "results" / "index.md"
        parts = name.parts[:-1] if name.name == "README.md" else name.with_suffix("").parts
        return DOCS / "results" / ("-".join(part for part in parts if part != "results") + ".md")
    return None


def rewritten(text: str, source: Path, page: Path) -> str:
    """Return the text of the file ``source`` with its links as ``page`` has to write them.

    Raises:
        FileNotFoundError: a link names a file that is not there.
    """

    def change(match: re.Match) -> str:
        if match["code"]:
            return match[0]
        target, hash_, anchor = match["target"].partition("#")
        if not target or "://" in target or target.startswith(("mailto:", "/")):
            return match[0]
        path = Path(os.path.normpath(source.parent / target))
        if not path.exists():
            if path.is_relative_to(DOCS):
                return match[0]  # a page that is made, or a mistake that Sphinx names
            raise FileNotFoundError(f"{source.relative_to(ROOT)} links to {target}, which is not there")
        shown = page_of(path)
        if path.is_dir() and shown is None:
            shown = page_of(path / "README.md") if (path / "README.md").exists() else DOCS / "results" / "index.md"
        if path.suffix == ".md" and shown is None:
            return match["text"]  # a page that the site does not have
        there = os.path.relpath(shown or path, page.parent)
        return f"{match['image']}[{match['text']}]({there}{hash_}{anchor})"

    return _LINK.sub(change, text)


def write_if_changed(path: Path, text: str) -> None:
    """Write a page unless it says this already, so that Sphinx reads only what has changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
