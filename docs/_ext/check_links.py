"""Check the built site: links within it lead to pages, files and places that are there, pictures say what they show.

Usage: python docs/_ext/check_links.py docs/_build/html

Addresses of other hosts are checked in their form only: where the site is built they cannot be reached.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := found.get(name))}
        self.links += [value for name in ("href", "src") if tag != "base" and (value := found.get(name))]
        if tag == "img" and not (found.get("alt") or "").strip():
            self.silent.append(found.get("src") or "")


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def problems(site: Path) -> tuple[list[str], int, int]:
    """Return what is wrong, a line each, and how many pages and links were looked at."""
    pages = {path.resolve(): _read(path) for path in sorted(site.rglob("*.html"))}
    found, count = [], 0
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        found += [f"{where}: the picture {source} has no text" for source in page.silent]
        for link in page.links:
            count += 1
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if parts.scheme in ("http", "https") and not re.fullmatch(r"[a-z0-9.-]+\.[a-z]+(:\d+)?", parts.netloc):
                    found.append(f"{where}: {link} names no host")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                found.append(f"{where}: {link} leads nowhere")
            elif where.parts[0] == "_modules":
                pass  # of pages of source, Sphinx leads to the right page, and not always to the place on it
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                found.append(f"{where}: {link} names a place that is not there")
    return sorted(set(found)), len(pages), count


def main() -> None:
    """Print what is wrong; exit with 1 if anything is."""
    found, pages, links = problems(Path(sys.argv[1]))
    print("\n".join([*found, f"site: {pages} pages, {links} links, {len(found)} problems"]))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
