"""Pages of what was measured, every README and note below ``experiments/results``, and of the project itself."""

import re
from pathlib import Path

from links import PAGES, RESULTS, ROOT, page_of, rewritten, write_if_changed

MARK = "---\ngenerated: true\n---\n\n"

#: Page groups of the index: caption and folders, in this order; whatever is not named comes last.
GROUPS = {
    "Depth": ["degradation", "thousand-layers", "gradient-norms", "shattering", "lesions", "propagation"],
    "Without batch norm": ["norm-free", "fixup"],
    "Training": ["defaults", "finetune", "search", "faults"],
    "Tasks and data": [
        "multitask", "detection", "camvid", "two_towers", "spoken-digits", "ucr", "languages", "adrenal3d", "bands",
        "composed_digits", "data-near-duplicates", "drift",
    ],
    "Speed and deployment": [
        "bench", "chips", "scaling", "parity", "serve_load", "export", "int8", "prune", "explain", "stranger",
    ],
}  # fmt: skip


def sources() -> dict[str, Path]:
    """Return the Markdown files that become pages of results, by the name of the page."""
    found = sorted(
        [*RESULTS.rglob("*.md"), ROOT / "experiments" / "scaling.md", ROOT / "experiments/parity/results/README.md"]
    )
    return {page.stem: path for path in found if (page := page_of(path)) is not None and page.stem != "index"}


def write(docs: Path) -> None:
    """Write the pages."""
    files = sources()
    for path in files.values():
        page = page_of(path)
        assert page is not None
        text = rewritten(path.read_text(encoding="utf-8"), path, page)
        title = "" if text.startswith("# ") else f"# {page.stem.replace('-', ': ')}\n\n"
        write_if_changed(page, MARK + title + text)
    for path, name in PAGES.items():
        if name.startswith("project/"):
            text = rewritten(path.read_text(encoding="utf-8"), path, docs / name)
            write_if_changed(
                docs / name, MARK + (text if text.strip() else f"# {path.stem.capitalize()}\n\nNothing yet.\n")
            )
    named = [name for names in GROUPS.values() for name in names]
    groups = {**GROUPS, "Tables": [name for name in files if name not in named]}
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    text = rewritten(text, RESULTS / "README.md", docs / "results" / "index.md")
    trees = ""
    for caption, names in groups.items():
        trees += f"\n```{{toctree}}\n:caption: {caption}\n:maxdepth: 1\n\n" + "\n".join(names) + "\n```\n"
    title = re.sub(r"^# .*", "# Results", text, count=1)
    write_if_changed(docs / "results" / "index.md", f"{MARK}{title}\n## All pages\n{trees}")
