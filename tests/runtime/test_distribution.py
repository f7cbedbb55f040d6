"""The name to install, the extras that messages name, and the version, against what is installed."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import resnet_jax
from resnet_jax.runtime.distribution import DISTRIBUTION, EXTRA_OF, versions

#: Where a module is not called as what installs it.
CALLED = {"tensorflow": "tensorflow-cpu"}


def test_every_extra_that_a_message_names_brings_the_module():
    about = importlib.metadata.metadata(DISTRIBUTION)
    brings = {extra: set() for extra in about.get_all("Provides-Extra") or ()}
    for requirement in importlib.metadata.requires(DISTRIBUTION) or ():
        if found := re.search(r"extra == '([\w-]+)'", requirement):
            brings[found[1]].add(re.split(r"[\[<>=;! ]", requirement)[0])
    for module, extra in EXTRA_OF.items():
        assert CALLED.get(module, module.replace("_", "-")) in brings[extra], (module, extra)
    assert {"cuda12", "cuda13", "tpu"} | set(EXTRA_OF.values()) == set(brings)
    page = (Path(__file__).parents[2] / "docs" / "install.md").read_text(encoding="utf-8")
    table = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", table)) == set(brings)


def test_the_version_is_written_once():
    assert importlib.metadata.version(DISTRIBUTION) == resnet_jax.__version__
    assert versions(["resnet_jax", "jax"]) == {
        "resnet_jax": resnet_jax.__version__,
        "jax": importlib.metadata.version("jax"),
    }
