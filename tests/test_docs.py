"""The site's pages: links lead somewhere, pictures say what they show, and what tutorials tell people to type works."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
import types
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from resnet_jax.cli.main import run
from tests.tools import few_devices, kept_programs

DOCS = Path(__file__).resolve().parents[1] / "docs"
#: Folders of pages that the build makes.
MADE = ("_build", "project", "reference", "results")
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.relative_to(DOCS).parts[0] not in MADE)
#: In the order of the tutorials: each goes on in the folder where the one before has left its runs.
TUTORIALS = ("first-run", "your-images", "fine-tune", "without-batch-norm", "gradients-through-depth", "coming-from")

#: What makes a command of a tutorial short, where it does not say so itself.
NETWORK = "--model.name resnet20_cifar --model.stage-sizes 1 1 1 --model.widths 4 4 4"
SHORT = {
    "train": f"{NETWORK} --train.length '2 steps' --train.batch-size 16",
    "ablate": f"{NETWORK} --train.length '2 steps' --train.batch-size 16",
    "finetune": "--train.length '2 steps' --train.batch-size 16",
}
#: And what makes a matrix of runs a small one.
FEWER = {"batch,group,none": "none", "--seeds 3": "--seeds 1"}

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the pages are in the source tree")


def without_code(text: str) -> str:
    """Return a page without its fenced blocks and code spans."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^(```+).*?^\1\s*$", "", text, flags=re.M | re.S))


def anchors(text: str) -> set[str]:
    """Return what a page's headings can be linked to as."""
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text(encoding="utf-8")))


def test_no_page_has_the_name_of_one_that_sphinx_makes_in_its_place():
    assert not {"search.md", "genindex.md", "py-modindex.md"} & {path.name for path in PAGES if path.parent == DOCS}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(DOCS).with_suffix("").as_posix())
def test_links_of_a_page_lead_to_files_and_headings(path):
    for link in links(path):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme in ("https", "http"), link
            assert "." in parts.netloc, link
            continue
        target = (path.parent / parts.path).resolve() if parts.path else path
        if not {DOCS / name for name in MADE} & set(target.parents):  # the build checks links to these
            assert target.exists(), f"{path.name} links to {link}"
            assert not parts.fragment or parts.fragment in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(DOCS).with_suffix("").as_posix())
def test_pictures_of_a_page_say_what_they_show(path):
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"!\[\s*\]\(", text)
    for block in re.findall(r"^```\{image\} .*?^```", text, re.M | re.S):
        assert re.search(r"^:alt: \S", block, re.M), block


def test_every_page_is_in_a_list_of_contents():
    listed = {DOCS / "index.md"}
    for path in PAGES:
        for block in re.findall(r"```\{toctree\}(.*?)```", path.read_text(encoding="utf-8"), re.S):
            names = [line for line in block.splitlines() if line and not line.startswith(":")]
            names = [re.sub(r".*<(.+)>$", r"\1", name) for name in names]  # TITLE <page>
            listed |= {(path.parent / f"{name}.md").resolve() for name in names}
    assert set(PAGES) <= listed


def commands(block: str) -> list[list[str]]:
    """Return the commands of a block that begin with ``resnet-jax``, as words without that."""
    for many, few in FEWER.items():
        block = block.replace(many, few)
    lines = block.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [found[1:] for found in words if found[:1] == ["resnet-jax"]]


def shortened(words: list[str]) -> list[str]:
    """Return a command with what makes it short, in place of what it says of length."""
    added = shlex.split(SHORT.get(words[0], ""))
    options = [word for word in added if word.startswith("--")]
    given = {option for option in options if option in words} - {"--train.length"}
    starts = [*(index for index, word in enumerate(added) if word.startswith("--")), len(added)]
    kept = [added[a:b] for a, b in itertools.pairwise(starts) if added[a] not in given]
    if "--train.length" in words and options:
        place = words.index("--train.length")
        words = words[:place] + words[place + 2 :]
    words = [*words, *(word for option in kept for word in option)]
    return [*words, "--run-dir", "runs/digits"] if words[0] == "train" and "--run-dir" not in words else words


def blocks(page: str) -> list[tuple[str, str]]:
    text = (DOCS / "tutorials" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```(python|bash)\n(.*?)^```", text, re.M | re.S)


def test_commands_are_shortened_in_place_of_what_they_say():
    found = shortened(shlex.split("train digits --train.length '20 steps' --model.name resnet8 --seed 1"))
    assert found.count("--train.length") == 1
    assert found[found.index("--train.length") + 1] == "2 steps"
    assert found[:4] == ["train", "digits", "--model.name", "resnet8"]
    assert found.count("--model.name") == 1
    assert commands("ls\nresnet-jax eval a \\\n  --json  # or\nresnet-jax depth b\n") == [
        ["eval", "a", "--json"],
        ["depth", "b"],
    ]


@pytest.mark.slow
def test_what_tutorials_tell_people_to_type_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with few_devices(1), kept_programs(tmp_path / "programs"):
        run_tutorials(monkeypatch)
    assert (tmp_path / "runs/mine/summary.json").exists()
    assert (tmp_path / "runs/tuned/table.md").exists()


def run_tutorials(monkeypatch):
    ran = 0
    for page in TUTORIALS:
        module = types.ModuleType(f"tutorial_{page.replace('-', '_')}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        for kind, block in blocks(page):
            if kind == "python":
                exec(compile(block, f"docs/tutorials/{page}.md", "exec"), vars(module))
            for words in commands(block) if kind == "bash" else []:
                fails = words[:2] == ["depth", "check"]  # the page shows a network through which signals do not get
                assert run(shortened(words)) == int(fails), f"{page}: resnet-jax {shlex.join(words)}"
            ran += 1
    assert ran >= 25
