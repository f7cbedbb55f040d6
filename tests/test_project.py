"""The pages about the project name what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from resnet_jax import __version__
from resnet_jax.runtime.distribution import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/stability.md", "docs/releasing.md")


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = {name.split("#")[0] for name in re.findall(r"\]\((?!https?:)([^)#]+)", text)}
    paths = [(ROOT / page).parent / name for name in named]
    # in code: `tests/models`, `runtime/lock.py` of the package; not `experiments/results/NAME`, which is the reader's
    code = {name for name in re.findall(r"`([\w.-]+/[\w./-]+)`", text) if not re.search(r"[A-Z]{4,}", name)}
    within = [(ROOT / name, ROOT / "resnet_jax" / name) for name in code]
    paths += [next((path for path in places if path.exists()), places[0]) for places in within]
    assert paths
    assert [str(path) for path in paths if not path.exists()] == []


def test_the_changelog_has_a_place_for_what_comes():
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert versions[0] == "Unreleased"
    assert set(versions[1:2]) <= {__version__}


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_actions_are_pinned_and_scripts_are_there(path):
    text = path.read_text(encoding="utf-8")
    assert isinstance(yaml.safe_load(text), dict)
    assert not [line for line in text.splitlines() if "uses:" in line and not re.search(r"@[0-9a-f]{40} # v\d", line)]
    assert all((ROOT / script).is_file() for script in re.findall(r"bash (\.ci/\w+)", text))


def test_nothing_tells_to_install_a_strangers_package():
    """``resnet-jax`` in the registry is not ours: no page and no message says to install it."""
    wrong = re.compile(r"pip install[^\n&;`,]*['\" =]resnet-jax")
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "resnet_jax").rglob("*.py")]
    assert wrong.search("pip install 'resnet-jax[onnx]'")
    assert [path.name for path in files if wrong.search(path.read_text(encoding="utf-8"))] == []
    assert DISTRIBUTION == "resnet-flax"
